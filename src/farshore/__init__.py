"""Farshore keeps a live copy of running machines elsewhere and brings them up there."""

__version__ = "0.1.0"
