"""The HTTP face of the process server: URLs to calls, bodies to formats."""
