"""Files and folders out of a machine's disks at a point."""
