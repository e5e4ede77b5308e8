"""Base copies: they make an epoch complete below its journal."""
