"""Talk to VMware vSphere through its own SDK (pyVmomi, the extra ``vsphere``): sessions, discovery, and what prevents
the protection of a machine. Nothing here knows the catalog. Modules that need no SDK import none: ``certificates`` and
``checks``."""
