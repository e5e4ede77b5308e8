"""Whether the copy equals the machine's disk: chunks compared with the vault as a restore would read it."""
