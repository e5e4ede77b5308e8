"""The shipped lab: a real machine to protect, and the disaster that strikes it.

The lab plays the on-premises side for the demo and for the guest scenarios: it builds a stock Debian guest, runs it in
QEMU, puts a load on it and keeps, outside it, the record of acknowledged commits. It is a program beside the others: it
shares the model with them, and uses them only as an operator would.
"""
