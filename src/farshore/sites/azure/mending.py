"""A Bicep file that makes what an Azure site needs: its networks, its store, and a role with no more than its rights.
Pure.

It describes the whole, so it may be deployed again: Azure leaves alone what is there already as it says.
"""

from __future__ import annotations

from farshore.sites.azure.rights import IN_REGION, needed
from farshore.sites.azure.settings import AzureSettings

_HEAD = """\
// What Farshore's site needs in its resource group.
//   az deployment group create --resource-group {group} --template-file FILE --parameters principal=OBJECT-ID
// OBJECT-ID is that of the identity: az ad sp show --id CLIENT --query id, or that of the managed identity.
targetScope = 'resourceGroup'

@description('Object id of the identity that Farshore uses.')
param principal string
param location string = '{region}'
"""
_NETWORK = """
resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {{
  name: '{network}'
  location: location
  properties: {{
    addressSpace: {{ addressPrefixes: ['10.20.0.0/16'] }}
    subnets: [{{ name: 'servers', properties: {{ addressPrefix: '10.20.0.0/24' }} }}]
  }}
}}
"""
_STORE = """
resource store 'Microsoft.Storage/storageAccounts@2023-05-01' = {{
  name: '{account}'
  location: location
  kind: 'StorageV2'
  sku: {{ name: 'Standard_ZRS' }}
  properties: {{
    minimumTlsVersion: 'TLS1_2'
    allowBlobPublicAccess: false
    supportsHttpsTrafficOnly: true
  }}

  resource blobs 'blobServices' = {{
    name: 'default'

    resource vault 'containers' = {{
      name: 'farshore'
    }}
  }}
}}

resource data 'Microsoft.Authorization/roleAssignments@2022-04-01' = {{
  name: guid(store.id, principal, 'data')
  scope: store
  properties: {{
    principalId: principal
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{data}')
  }}
}}
"""
_SERVERS = """
resource servers 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {{
  name: '{identity}'
  location: location
}}
"""
_SERVERS_DATA = """
resource serversData 'Microsoft.Authorization/roleAssignments@2022-04-01' = {{
  name: guid(store.id, servers.id, 'data')
  scope: store
  properties: {{
    principalId: servers.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{data}')
  }}
}}
"""
_BLOB_DATA = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
"""Azure's id of its role "Storage Blob Data Contributor"."""
_ROLE = """
resource role 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {{
  name: guid(resourceGroup().id, 'farshore')
  properties: {{
    roleName: 'Farshore ${{resourceGroup().name}}'
    description: 'Makes, starts, stops and deletes recovered machines.'
    type: 'CustomRole'
    assignableScopes: [resourceGroup().id]
    permissions: [
      {{
        actions: [
{actions}
        ]
      }}
    ]
  }}
}}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {{
  name: guid(resourceGroup().id, principal, 'farshore')
  properties: {{ principalId: principal, roleDefinitionId: role.id }}
}}

// In the subscription it only reads: {in_region}.
// az role assignment create --assignee OBJECT-ID --role Reader --scope /subscriptions/{subscription}
"""


def bicep(settings: AzureSettings) -> str:
    """The file's text."""
    parts = [_HEAD.format(group=settings.resource_group, region=settings.region)]
    if settings.virtual_network:
        parts.append(_NETWORK.format(network=settings.virtual_network))
    if settings.storage_account:
        parts.append(_STORE.format(account=settings.storage_account, data=_BLOB_DATA))
    if settings.process_server_identity:
        parts.append(_SERVERS.format(identity=settings.process_server_identity))
        if settings.storage_account:
            parts.append(_SERVERS_DATA.format(data=_BLOB_DATA))
    actions = "\n".join(f"          '{action}'" for action in needed(identity=settings.process_server_identity))
    parts.append(_ROLE.format(actions=actions, in_region=", ".join(IN_REGION), subscription=settings.subscription))
    return "".join(parts)
