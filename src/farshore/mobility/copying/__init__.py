"""List the disks, and copy them by hash or by the dirty bitmap."""
