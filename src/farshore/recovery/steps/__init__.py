"""One file a step. A step may be cut off anywhere and is then run again from its start: each is idempotent."""
