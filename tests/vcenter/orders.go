package main

import (
	"bytes"
	"encoding/json"
	"io/ioutil"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// What tests order, and what they may ask afterwards:
//
//	POST /double/fault?method=M&kind=K[&times=N][&millis=T][&after=A]  the next N calls of a method fail (faults.go); NFC: of an import
//	POST /double/sessions                                    every session of now is lost
//	POST /double/deny?privilege=P                            nobody has this privilege (privileges.go)
//	POST /double/allow                                       everybody has all privileges again
//	POST /double/die?machine=ID                              a machine ends as with its host (disks.go)
//	GET  /double/calls                                       how often each method was called, as JSON
type fault struct {
	kind  string
	times int
	late  time.Duration
	after int // calls that pass before
}

var (
	lock   sync.Mutex
	faults = map[string]*fault{}
	calls  = map[string]int{}
	seen   = map[string]bool{} // cookies of sessions
	lost   = map[string]bool{} // those that are no session any more

	methodIn = regexp.MustCompile(`<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)`)
	thisIn   = regexp.MustCompile(`<(?:\w+:)?_this[^>]*type="(\w+)"[^>]*>([^<]+)<`)
)

const cookieName = "vmware_soap_session"

// withOrders takes orders, and carries them out on the calls that pass.
func withOrders(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/double/"):
			take(w, r)
		case strings.HasPrefix(r.URL.Path, "/sdk") && r.Method == http.MethodPost:
			call(inner, w, r)
		case strings.HasPrefix(r.URL.Path, "/nfc/") && r.Method != http.MethodGet && devices != "":
			receive(w, r)
		case r.URL.Path == "/guestFile" && guestCommand != "":
			transfer(w, r)
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

func take(w http.ResponseWriter, r *http.Request) {
	lock.Lock()
	defer lock.Unlock()
	asked := r.URL.Query()
	switch r.URL.Path {
	case "/double/fault":
		times, err := strconv.Atoi(asked.Get("times"))
		if err != nil {
			times = 1
		}
		millis, _ := strconv.Atoi(asked.Get("millis"))
		after, _ := strconv.Atoi(asked.Get("after"))
		faults[asked.Get("method")] = &fault{asked.Get("kind"), times, time.Duration(millis) * time.Millisecond, after}
	case "/double/sessions":
		for cookie := range seen {
			lost[cookie] = true
		}
	case "/double/die":
		die(asked.Get("machine"))
	case "/double/deny":
		denied[asked.Get("privilege")] = true
	case "/double/allow":
		denied = map[string]bool{}
	case "/double/calls":
		_ = json.NewEncoder(w).Encode(calls)
	default:
		http.NotFound(w, r)
	}
}

// call counts a call, forgets the session it belongs to if that is lost, and lets it fail if a fault is due.
func call(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	body, err := ioutil.ReadAll(r.Body)
	if err != nil {
		return // the caller has gone
	}
	r.Body = ioutil.NopCloser(bytes.NewReader(body))
	name := ""
	if found := methodIn.FindSubmatch(body); found != nil {
		name = string(found[1])
	}
	due := note(name, r)
	if due == nil {
		reconfigured(inner, w, r, name, body)
		return
	}
	fail(due, name, receiver(body), inner, w, r)
}

// note answers the fault that is due for this call, or nil.
func note(name string, r *http.Request) *fault {
	lock.Lock()
	defer lock.Unlock()
	calls[name]++
	if cookie, err := r.Cookie(cookieName); err == nil {
		seen[cookie.Value] = true
		if lost[cookie.Value] {
			r.Header.Del("Cookie")
		}
	}
	due := faults[name]
	if due == nil || due.times == 0 {
		return nil
	}
	if due.after > 0 {
		due.after--
		return nil
	}
	due.times--
	return &fault{due.kind, 0, due.late, 0}
}

func receiver(body []byte) types.ManagedObjectReference {
	if found := thisIn.FindSubmatch(body); found != nil {
		return types.ManagedObjectReference{Type: string(found[1]), Value: string(found[2])}
	}
	return types.ManagedObjectReference{}
}
