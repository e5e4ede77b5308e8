package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

var denied = map[string]bool{} // by the name of the privilege; below lock

// authorizations answers what a test denied. The simulator's own grants everything to everybody.
type authorizations struct {
	simulator.AuthorizationManager
}

func useOwnPrivileges() {
	content := simulator.Map.Get(serviceInstance).(*simulator.ServiceInstance).Content
	own := simulator.Map.Get(*content.AuthorizationManager).(*simulator.AuthorizationManager)
	simulator.Map.Put(&authorizations{*own})
}

var serviceInstance = types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}

func (m *authorizations) HasPrivilegeOnEntities(asked *types.HasPrivilegeOnEntities) soap.HasFault {
	lock.Lock()
	defer lock.Unlock()
	var found []types.EntityPrivilege
	for _, entity := range asked.Entity {
		one := types.EntityPrivilege{Entity: entity}
		for _, privilege := range asked.PrivId {
			granted := types.PrivilegeAvailability{PrivId: privilege, IsGranted: !denied[privilege]}
			one.PrivAvailability = append(one.PrivAvailability, granted)
		}
		found = append(found, one)
	}
	return &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{Returnval: found}}
}
