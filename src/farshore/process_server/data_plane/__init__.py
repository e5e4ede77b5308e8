"""The HTTP interface of the process server: URLs to calls, bodies to formats."""
