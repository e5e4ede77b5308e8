"""What a vault is made of: each kind of object, written and opened."""
