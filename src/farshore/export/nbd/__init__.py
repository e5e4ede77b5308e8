"""The NBD protocol, server side: wire layouts, negotiation (pure), transmission, listening."""
