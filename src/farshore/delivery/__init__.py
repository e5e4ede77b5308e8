"""Bring a recovery point's disks to a site: served from an export, or written completely. See port.py."""
