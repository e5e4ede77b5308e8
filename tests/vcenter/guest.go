package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Guest operations that are carried out for real: by a command that takes one more argument, a line for a shell. "sh -c"
// makes this host the guest, "ssh -p 2222 root@127.0.0.1" a machine of the lab. The simulator itself has nearly none.
var guestCommand string

const guestUser, guestPassword = "root", "guest-secret"

type program struct {
	command *exec.Cmd
	ended   *time.Time
	status  int32
}

var (
	guestLock sync.Mutex
	programs  = map[int64]*program{}
	transfers = map[string]string{} // paths in the guest, by token
)

type guestFiles struct{ simulator.GuestFileManager }
type guestProcesses struct{ simulator.GuestProcessManager }

func useOwnGuest() {
	if guestCommand == "" {
		return
	}
	content := simulator.Map.Get(serviceInstance).(*simulator.ServiceInstance).Content
	manager := simulator.Map.Get(*content.GuestOperationsManager).(*simulator.GuestOperationsManager)
	simulator.Map.Put(&guestFiles{*simulator.Map.Get(*manager.FileManager).(*simulator.GuestFileManager)})
	simulator.Map.Put(&guestProcesses{*simulator.Map.Get(*manager.ProcessManager).(*simulator.GuestProcessManager)})
}

func inGuest(line string) *exec.Cmd {
	words := append(strings.Fields(guestCommand), line)
	return exec.Command(words[0], words[1:]...)
}

// refused answers why the guest does not take the login, or nil.
func refused(auth types.BaseGuestAuthentication) types.BaseMethodFault {
	login, ok := auth.(*types.NamePasswordAuthentication)
	if !ok || login.Username != guestUser || login.Password != guestPassword {
		return new(types.InvalidGuestLogin)
	}
	return nil
}

func quoted(text string) string { return "'" + strings.Replace(text, "'", `'\''`, -1) + "'" }

func token(path string) string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	made := fmt.Sprintf("%x", raw)
	guestLock.Lock()
	defer guestLock.Unlock()
	transfers[made] = path
	return "https://*/guestFile?token=" + made
}

func (m *guestFiles) CreateTemporaryDirectoryInGuest(req *types.CreateTemporaryDirectoryInGuest) soap.HasFault {
	body := new(methods.CreateTemporaryDirectoryInGuestBody)
	if fault := refused(req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	made, err := inGuest("mktemp -d \"${TMPDIR:-/tmp}/" + req.Prefix + "XXXXXXXX\"").Output()
	if err != nil {
		body.Fault_ = simulator.Fault("", new(types.GuestPermissionDenied))
		return body
	}
	body.Res = &types.CreateTemporaryDirectoryInGuestResponse{Returnval: strings.TrimSpace(string(made))}
	return body
}

func (m *guestFiles) DeleteDirectoryInGuest(req *types.DeleteDirectoryInGuest) soap.HasFault {
	body := new(methods.DeleteDirectoryInGuestBody)
	if fault := refused(req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	_ = inGuest("rm -rf -- " + quoted(req.DirectoryPath)).Run()
	body.Res = new(types.DeleteDirectoryInGuestResponse)
	return body
}

func (m *guestFiles) InitiateFileTransferToGuest(req *types.InitiateFileTransferToGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferToGuestBody)
	if fault := refused(req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.InitiateFileTransferToGuestResponse{Returnval: token(req.GuestFilePath)}
	return body
}

func (m *guestFiles) InitiateFileTransferFromGuest(req *types.InitiateFileTransferFromGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferFromGuestBody)
	if fault := refused(req.Auth); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	told := types.FileTransferInformation{Attributes: new(types.GuestPosixFileAttributes), Url: token(req.GuestFilePath)}
	body.Res = &types.InitiateFileTransferFromGuestResponse{Returnval: told}
	return body
}

// transfer takes a file to the guest, or from it.
func transfer(w http.ResponseWriter, r *http.Request) {
	guestLock.Lock()
	path, ok := transfers[r.URL.Query().Get("token")]
	guestLock.Unlock()
	if due := note("guestFile", r); due != nil {
		fail(due, "guestFile", types.ManagedObjectReference{}, nil, w, r)
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	var err error
	if r.Method == http.MethodPut {
		command := inGuest("umask 077; cat > " + quoted(path))
		command.Stdin = r.Body
		err = command.Run()
	} else {
		var content []byte
		if content, err = inGuest("cat " + quoted(path)).Output(); err == nil {
			_, _ = io.WriteString(w, string(content))
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (m *guestProcesses) StartProgramInGuest(req *types.StartProgramInGuest) soap.HasFault {
	body := new(methods.StartProgramInGuestBody)
	fault := refused(req.Auth)
	spec := req.Spec.GetGuestProgramSpec()
	command := inGuest(spec.ProgramPath + " " + spec.Arguments)
	if fault == nil && command.Start() != nil {
		fault = new(types.GuestPermissionDenied)
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	number, one := int64(command.Process.Pid), &program{command: command}
	guestLock.Lock()
	programs[number] = one
	guestLock.Unlock()
	go func() {
		_ = command.Wait()
		now := time.Now()
		guestLock.Lock()
		defer guestLock.Unlock()
		one.ended, one.status = &now, int32(command.ProcessState.ExitCode())
	}()
	body.Res = &types.StartProgramInGuestResponse{Returnval: number}
	return body
}

func (m *guestProcesses) ListProcessesInGuest(req *types.ListProcessesInGuest) soap.HasFault {
	body := &methods.ListProcessesInGuestBody{Res: new(types.ListProcessesInGuestResponse)}
	guestLock.Lock()
	defer guestLock.Unlock()
	for _, number := range req.Pids {
		if one := programs[number]; one != nil {
			told := types.GuestProcessInfo{Name: "sh", Pid: number, Owner: guestUser, CmdLine: "sh", StartTime: time.Now()}
			told.EndTime, told.ExitCode = one.ended, one.status
			body.Res.Returnval = append(body.Res.Returnval, told)
		}
	}
	return body
}

func (m *guestProcesses) TerminateProcessInGuest(req *types.TerminateProcessInGuest) soap.HasFault {
	guestLock.Lock()
	defer guestLock.Unlock()
	if one := programs[req.Pid]; one != nil {
		_ = one.command.Process.Kill()
	}
	return &methods.TerminateProcessInGuestBody{Res: new(types.TerminateProcessInGuestResponse)}
}
