"""Recovery points: how still the machine is held for each."""
