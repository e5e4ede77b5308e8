"""Which disks there are, and what is copied of them, by hash or by the dirty bitmap."""
