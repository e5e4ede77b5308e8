"""Another release of the agent in place of this one, without a reboot and without a blind moment."""
