"""What opens a vault: the owner's key, where it lies, and the keys that it opens."""
