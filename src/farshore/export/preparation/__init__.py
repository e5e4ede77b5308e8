"""Guest preparation: adapt a recovered machine's copy to the hardware and the network on which it comes up.

``prepare.prepare`` boots the appliance over the copy's disks, which it writes to; ``inside`` runs there, finds the
machine's root, and enters it. It edits only files of the copy: source and vault are never written to.
"""
