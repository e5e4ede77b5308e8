package main

import (
	"net/http"
	"regexp"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var emptyNotes = regexp.MustCompile(`<(?:\w+:)?annotation[^>]*(?:/>|></)`)

// reconfigured does what the simulator leaves out: it takes empty notes for none at all, and its disks hold no bytes.
func reconfigured(inner http.Handler, w http.ResponseWriter, r *http.Request, name string, body []byte) {
	inner.ServeHTTP(w, r)
	if name == "ReconfigVM_Task" && emptyNotes.Match(body) {
		clearNotes(receiver(body))
	}
	switch name {
	case "CreateVM_Task", "ReconfigVM_Task", "ImportVApp", "Destroy_Task":
		settleDisks()
	}
}

func clearNotes(this types.ManagedObjectReference) {
	if machine, ok := simulator.Map.Get(this).(*simulator.VirtualMachine); ok {
		change := types.PropertyChange{Name: "config.annotation", Val: ""}
		simulator.Map.WithLock(machine, func() {
			machine.Config.Annotation = ""
			simulator.Map.Update(machine, []types.PropertyChange{change})
		})
	}
}
