"""Check whether the copy equals the machine's disk: chunks are compared with the vault as a restore would read it."""
