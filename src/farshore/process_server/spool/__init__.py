"""The spool: an acknowledged batch is here, durable, until the vault has it."""
