"""HTTPS for large bodies: one thread watches idle connections, a few workers read bodies into their own buffers."""
