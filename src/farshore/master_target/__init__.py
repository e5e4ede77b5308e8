"""The master target: writes machines' disks at home, from the vault, for failbacks or by hand."""
