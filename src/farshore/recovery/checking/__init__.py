"""Check whether a recovered machine does its work."""
