package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/ioutil"
	"math/big"
	"net"
	"os"
	"time"
)

// loadCertificate reads the certificate and its key from a PEM file, or makes them, and the file if it is named.
func loadCertificate(file string) (tls.Certificate, error) {
	if file != "" {
		text, err := ioutil.ReadFile(file)
		if err == nil {
			return tls.X509KeyPair(text, text)
		}
		if !os.IsNotExist(err) {
			return tls.Certificate{}, err
		}
	}
	text, err := makeCertificate()
	if err == nil && file != "" {
		err = ioutil.WriteFile(file, text, 0600)
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(text, text)
}

// makeCertificate signs itself and is no authority, like the one of an ESXi host that no vCenter manages.
func makeCertificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "vcenter.example.com"},
		DNSNames:     []string{"vcenter.example.com"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	packed, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: signed})
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: packed})
	return text.Bytes(), nil
}
