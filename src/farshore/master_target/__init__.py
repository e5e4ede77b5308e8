"""The master target: writes machines' disks where they came from. It reaches the vault and nothing else."""
