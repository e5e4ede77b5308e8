"""What the programs tell about themselves while they run."""
