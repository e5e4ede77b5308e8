"""Run recovered machines: one port, a registry, and a folder for each kind of site."""
