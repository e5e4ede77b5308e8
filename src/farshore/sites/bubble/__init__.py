"""An isolated network for test failovers: our own switch, which connects its members and nothing else."""
