"""Open streams: what was received, what is durable, what is stored, and who may send."""
