"""How a recovery point's disks come to a site: served from an export, or written whole. See port.py."""
