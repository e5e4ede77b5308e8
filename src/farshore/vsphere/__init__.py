"""VMware vSphere, by the real SDK (pyVmomi, the extra ``vsphere``): sessions, discovery, what keeps a machine from
being protected. Nothing here knows the catalog. What needs no SDK imports none: ``certificates`` and ``checks``."""
