"""Run discovery at VMware servers of the process server's site, for the configuration server."""
