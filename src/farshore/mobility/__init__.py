"""The program on the protected machine: capture, send, spill, copy, create points. Runs on Python 3.9 and newer."""
