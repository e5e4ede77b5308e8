"""From the capture's ring to the process server: batches, the backlog, and their epochs."""
