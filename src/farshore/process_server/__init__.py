"""The process server: receives machines' streams, keeps them in a spool, seals them, and stores them in the vault."""
