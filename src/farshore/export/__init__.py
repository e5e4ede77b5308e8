"""Show a recovery point as a block device: NBD server, copy-on-write overlay, images. Sources are BlockSources."""
