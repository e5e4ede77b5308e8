"""The command line: one file per command group. It speaks REST; only ``vault.py`` opens a vault itself."""
