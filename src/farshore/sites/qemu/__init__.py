"""The embedded recovery site: QEMU on this host, with KVM where it works and TCG where it does not."""
