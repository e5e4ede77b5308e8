"""The program on the protected machine: capture, ship, spill, copy, cut points. Runs on Python 3.9 and newer."""
