"""The embedded recovery site: QEMU on this host, with KVM if it works and TCG otherwise."""
