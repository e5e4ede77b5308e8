"""How requests come in: TLS, certificates, bounds, problems."""
