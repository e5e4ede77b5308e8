"""The server appliance's console: asks once for network, vault and vCenter, then has systemd run everything.

The appliance's unit starts ``python -m farshore.cli.console`` on each terminal that it has until one of them was
answered (deploy/appliance). It configures what Debian's own parts read: systemd-networkd, the store's environment file
and farshore.service. The ordinary commands do the rest.
"""
