"""Bytes on the wire and on disk: encode and decode, nothing else. Each format has its page in docs/formats/."""
