"""The server appliance's console: asks once for network, vault and vCenter, then has systemd run everything.

The appliance's unit starts ``python -m farshore.cli.console`` on each of its terminals, until somebody has answered at
one of them (deploy/appliance). It configures Debian's own components: systemd-networkd, the store's environment file
and farshore.service. The ordinary commands do the rest.
"""
