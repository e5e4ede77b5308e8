"""Azure: recovered machines in a resource group, on managed disks that are uploaded to. Needs the extra ``azure``."""
