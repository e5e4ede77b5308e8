"""Schema changes, oldest first; each file is one step up and the same step down."""
