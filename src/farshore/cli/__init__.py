"""The command line: one file per command group. All groups use the REST API, except ``vault``, which opens a vault
directly."""
