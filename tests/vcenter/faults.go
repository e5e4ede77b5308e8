package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Kinds of faults: how a call fails.
//
//	drop         the connection is cut before the call is carried out
//	half         the call is carried out, and the connection is cut in the middle of the answer
//	busy         HTTP 503
//	slow         carried out, late by what the order says
//	void         answered as if it were carried out, and it is not: a guest that does not shut down
//	endless      an answer without an end, of which nobody needs more than the beginning
//	bomb         one that unpacks to a gibibyte
//	odd          a failed call whose answer is no fault
//	cookie       a cookie that is none
//	terminal     carried out, with what drives a terminal in place of the word VMware
//	task:NAME    a task is answered that ends in the fault NAME, one without fields; nothing is carried out
//	NAME         the fault NAME is answered, such as NotAuthenticated, NoPermission, TaskInProgress
func fail(due *fault, name string, this types.ManagedObjectReference, inner http.Handler, w http.ResponseWriter,
	r *http.Request) {
	switch {
	case due.kind == "drop":
		panic(http.ErrAbortHandler)
	case due.kind == "half":
		answerHalf(inner, w, r)
	case due.kind == "busy":
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case due.kind == "slow":
		time.Sleep(due.late)
		inner.ServeHTTP(w, r)
	case due.kind == "void":
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		fmt.Fprintf(w, envelope, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"></%[1]sResponse>`, name))
	case due.kind == "endless":
		answerEndless(w)
	case due.kind == "bomb":
		answerBomb(w)
	case due.kind == "odd":
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, envelope, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"></%[1]sResponse>`, name))
	case due.kind == "cookie":
		w.Header().Set("Set-Cookie", "a/b=c")
		inner.ServeHTTP(w, r)
	case due.kind == "terminal":
		answerTerminal(inner, w, r)
	case strings.HasPrefix(due.kind, "task:"):
		answerTask(w, name, this, strings.TrimPrefix(due.kind, "task:"))
	default:
		answerFault(w, this, due.kind)
	}
}

func answerHalf(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	whole := httptest.NewRecorder()
	inner.ServeHTTP(whole, r)
	for key, values := range whole.Header() {
		w.Header()[key] = values
	}
	text := whole.Body.Bytes()
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(text[:len(text)/2])
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush()
	}
	panic(http.ErrAbortHandler)
}

func answerEndless(w http.ResponseWriter) {
	line := []byte("<a>" + strings.Repeat("much ", 12000) + "</a>")
	fmt.Fprint(w, strings.SplitN(envelope, "%s", 2)[0])
	for {
		if _, err := w.Write(line); err != nil {
			return // the caller has had enough
		}
	}
}

func answerBomb(w http.ResponseWriter) {
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	fmt.Fprint(packed, strings.SplitN(envelope, "%s", 2)[0])
	line := []byte(strings.Repeat(" ", 1<<20))
	for sent := 0; sent < 1<<10; sent++ {
		if _, err := packed.Write(line); err != nil {
			return
		}
	}
	_ = packed.Close()
}

func answerTerminal(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	whole := httptest.NewRecorder()
	inner.ServeHTTP(whole, r)
	// U+009B begins what ESC [ begins, and is a character that XML takes.
	_, _ = w.Write(bytes.Replace(whole.Body.Bytes(), []byte("VMware"), []byte("&#x9b;31m&#10;VMware"), -1))
}

func answerTask(w http.ResponseWriter, name string, this types.ManagedObjectReference, kind string) {
	run := func(*simulator.Task) (types.AnyType, types.BaseMethodFault) { return nil, makeFault(kind) }
	task := simulator.CreateTask(this, strings.Replace(name, "_Task", "Task", 1), run).Run()
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	returned := fmt.Sprintf(`<returnval type="Task">%s</returnval>`, task.Value)
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<%[1]sResponse xmlns="urn:vim25">%[2]s</%[1]sResponse>`, name, returned))
}

// makeFault answers a fault by its name in the SDK; InvalidRequest for a name that is none.
func makeFault(kind string) types.BaseMethodFault {
	if found, ok := types.TypeFunc()(kind); ok {
		if made, ok := reflect.New(found).Interface().(types.BaseMethodFault); ok {
			return made
		}
	}
	return new(types.InvalidRequest)
}

const envelope = `<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope ` +
	`xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" ` +
	`xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

func answerFault(w http.ResponseWriter, this types.ManagedObjectReference, kind string) {
	fields := ""
	switch kind { // clients need what these must have
	case "NotAuthenticated", "NoPermission":
		fields = fmt.Sprintf(`<object type="%s">%s</object><privilegeId>System.View</privilegeId>`, this.Type, this.Value)
	case "InvalidPowerState":
		fields = `<requestedState>poweredOn</requestedState><existingState>poweredOff</existingState>`
	case "ManagedObjectNotFound":
		fields = fmt.Sprintf(`<obj type="%s">%s</obj>`, this.Type, this.Value)
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<soapenv:Fault><faultcode>ServerFaultCode</faultcode>`+
		`<faultstring>%[1]s, as ordered</faultstring><detail><%[1]sFault xmlns="urn:vim25" xsi:type="%[1]s">%[2]s`+
		`</%[1]sFault></detail></soapenv:Fault>`, kind, fields))
}
