"""Run recovered machines at a vCenter or an ESXi host, above all those that come home."""
