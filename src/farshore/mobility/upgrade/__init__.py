"""Replace this release of the agent by another one, without a reboot and without missing a write."""
