"""Places where recovered machines run: one port, a registry, a folder for each kind of site."""
