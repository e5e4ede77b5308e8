"""Brings alerts to people: what is due to whom, the message, and the channels that take it."""
