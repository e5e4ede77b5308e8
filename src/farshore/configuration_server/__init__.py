"""The configuration server: REST API, certificate authority, jobs, the watch over RPO."""
