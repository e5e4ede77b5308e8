"""From the capture's ring to the process server: batches, the backlog, and the epochs that they belong to."""
