"""From the spool to the vault: segments and points, in order, fairly, however the store behaves."""
