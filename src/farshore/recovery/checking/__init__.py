"""Looks whether a recovered machine does what it is there for."""
