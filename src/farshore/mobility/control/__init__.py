"""What the agent and the configuration server say to each other."""
