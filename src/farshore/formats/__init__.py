"""Formats of bytes on the wire and on disk: encoding and decoding only. Each format has its page in docs/formats/."""
