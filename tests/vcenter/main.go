// A vCenter, or an ESXi host, for tests: govmomi's simulator behind faults that tests order.
//
// Build it without a network, from Debian's golang-go and golang-github-vmware-govmomi-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o vcenter .
//
// It prints "ready HOST:PORT" when it serves, and ends at SIGTERM. Its certificate is made anew unless -certificate
// names a file to keep it in: the simulator's own has a key of 1,024 bits, which OpenSSL 3 refuses. Orders are POST
// requests below /double/ and need no session: see orders.go and faults.go.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io/ioutil"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
)

const (
	userName = "farshore@vsphere.local"
	password = "not-a-secret"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address")
	machines := flag.Int("machines", 4, "virtual machines")
	host := flag.Bool("esx", false, "be an ESXi host, not a vCenter")
	certificate := flag.String("certificate", "", "file of the certificate and its key; made if it is not there")
	flag.StringVar(&devices, "devices", "", "folder in which the disks of -proxy show up; empty: disks hold no bytes")
	flag.StringVar(&proxy, "proxy", "", "name of the machine whose disks show up in -devices")
	flag.StringVar(&guestCommand, "guest", "", "what carries out guest operations, such as \"sh -c\" (guest.go)")
	flag.Parse()
	log.SetOutput(ioutil.Discard) // the simulator's

	shown, err := loadCertificate(*certificate)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	model := simulator.VPX()
	model.Host = 0 // every machine in the cluster
	if *host {
		model = simulator.ESX()
	}
	model.Machine = *machines
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer model.Remove()
	useOwnPrivileges()
	useOwnGuest()
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(userName, password)}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{shown}, MinVersion: tls.VersionTLS12}
	server := model.Service.NewServer()
	server.Config.Handler = withOrders(server.Config.Handler)
	settleDisks()
	fmt.Println("ready", server.URL.Host)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
}
