"""Guest preparation: a recovered machine's copy is made ready for the hardware and the network that it comes up on.

``prepare.prepare`` boots the appliance over the copy's disks, which it writes to; ``inside`` runs there, finds the
machine's root, and enters it. What it edits are files of the copy alone: source and vault are never written to.
"""
