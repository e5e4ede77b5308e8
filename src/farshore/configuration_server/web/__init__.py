"""How requests come in: TLS, certificates, limits, problems."""
