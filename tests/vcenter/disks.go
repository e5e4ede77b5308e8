package main

import (
	"crypto/sha1"
	"fmt"
	"io"
	"io/ioutil"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Disks hold bytes: behind each NAME.vmdk there is a NAME-flat.vmdk with the disk's own, as on a real datastore. They
// have UUIDs, and those that hang on the machine "proxy" show up in the folder "devices" under the names that udev gives
// them in a guest with disk.EnableUUID. What comes by an import is written to them.
var devices, proxy string

// settleDisks brings files, UUIDs and devices in line with what machines have now.
func settleDisks() {
	if devices == "" {
		return
	}
	shown := map[string]string{}
	eachMachine(func(machine *simulator.VirtualMachine) {
		for _, device := range machine.Config.Hardware.Device {
			disk, ok := device.(*types.VirtualDisk)
			if !ok {
				continue
			}
			backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
			if !ok || backing.Datastore == nil {
				continue
			}
			backing.Uuid = uuidOf(backing.FileName)
			flat := flatOf(backing)
			if found, err := os.Stat(flat); err == nil && found.Size() < disk.CapacityInKB<<10 {
				_ = os.Truncate(flat, disk.CapacityInKB<<10)
			}
			if machine.Name == proxy {
				shown["wwn-0x"+strings.ToLower(strings.Replace(backing.Uuid, "-", "", -1))] = flat
			}
		}
	})
	show(shown)
}

func show(wanted map[string]string) {
	there, _ := ioutil.ReadDir(devices)
	for _, one := range there {
		if wanted[one.Name()] == "" {
			_ = os.Remove(filepath.Join(devices, one.Name()))
		}
	}
	for name, flat := range wanted {
		_ = os.Symlink(flat, filepath.Join(devices, name))
	}
}

func eachMachine(act func(*simulator.VirtualMachine)) {
	for _, one := range simulator.Map.All("VirtualMachine") {
		if machine, ok := one.(*simulator.VirtualMachine); ok {
			simulator.Map.WithLock(machine, func() { act(machine) })
		}
	}
}

func uuidOf(file string) string {
	digest := fmt.Sprintf("%x", sha1.Sum([]byte(file)))
	return "6000C29" + digest[:1] + "-" + digest[1:5] + "-" + digest[5:9] + "-" + digest[9:13] + "-" + digest[13:25]
}

func flatOf(backing *types.VirtualDiskFlatVer2BackingInfo) string {
	var file object.DatastorePath
	file.FromString(backing.FileName)
	store := simulator.Map.Get(*backing.Datastore).(*simulator.Datastore)
	whole := path.Join(store.Info.GetDatastoreInfo().Url, file.Path)
	return strings.TrimSuffix(whole, ".vmdk") + "-flat.vmdk"
}

// receive writes a stream-optimised VMDK that comes by an import to the disk it is for.
func receive(w http.ResponseWriter, r *http.Request) {
	if due := note("NFC", r); due != nil {
		_, _ = io.CopyN(ioutil.Discard, r.Body, 1000)
		fail(due, "NFC", types.ManagedObjectReference{}, nil, w, r)
		return
	}
	name, flat := path.Base(r.URL.Path), ""
	eachMachine(func(machine *simulator.VirtualMachine) {
		for _, device := range machine.Config.Hardware.Device {
			if backing, ok := device.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
				if strings.HasSuffix(backing.FileName, "/"+name) {
					flat = flatOf(backing)
				}
			}
		}
	})
	if flat == "" {
		http.NotFound(w, r)
		return
	}
	sent, err := ioutil.TempFile("", "nfc")
	if err == nil {
		defer os.Remove(sent.Name())
		_, err = io.Copy(sent, r.Body)
		_ = sent.Close()
	}
	if err == nil {
		err = exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", sent.Name(), flat).Run()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// die ends the run of a machine as the end of its host does: no event tells of it.
func die(value string) {
	this := types.ManagedObjectReference{Type: "VirtualMachine", Value: value}
	if machine, ok := simulator.Map.Get(this).(*simulator.VirtualMachine); ok {
		simulator.Map.WithLock(machine, func() {
			off := types.VirtualMachinePowerStatePoweredOff
			machine.Runtime.PowerState, machine.Summary.Runtime.PowerState = off, off
			simulator.Map.Update(machine, []types.PropertyChange{{Name: "runtime.powerState", Val: off}})
		})
	}
}
