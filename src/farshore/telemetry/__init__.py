"""Logs of the running programs."""
