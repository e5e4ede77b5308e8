"""Communication between the agent and the configuration server."""
