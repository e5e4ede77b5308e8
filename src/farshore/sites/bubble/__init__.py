"""A network that test failovers share: a switch of our own, which leads to its members and to nothing else."""
