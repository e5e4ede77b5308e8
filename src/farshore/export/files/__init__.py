"""Read files and folders from a machine's disks at a point."""
