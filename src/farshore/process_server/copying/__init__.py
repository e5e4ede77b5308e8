"""Base copies: what makes an epoch whole below its journal."""
