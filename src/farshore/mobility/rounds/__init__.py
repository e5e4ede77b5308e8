"""Protection without data mode: rounds that each end in one recovery point.

In bitmap mode a round reads the blocks that the capture program saw written; in scan mode it reads everything and
compares hashes. docs/decisions/2026-11-24-rounds.md explains why their points are right.
"""
