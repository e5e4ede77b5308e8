"""Whether the copy equals this machine's disks: chunks hashed at known places of the stream, compared by the server."""
