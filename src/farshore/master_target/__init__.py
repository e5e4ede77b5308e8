"""The master target: writes machines' disks where they came from, read from the vault, as failbacks or people ask."""
