"""Check whether the copy equals this machine's disks: chunks are hashed at known places of the stream, and the server
compares them."""
