"""Recovery points, and how the machine is held for each."""
