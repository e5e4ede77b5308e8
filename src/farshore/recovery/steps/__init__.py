"""One file for each step. A step may be interrupted anywhere and is then run again from its start: each is
idempotent."""
