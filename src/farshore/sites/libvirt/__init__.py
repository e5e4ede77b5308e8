"""Run recovered machines as domains of a libvirtd on this host."""
