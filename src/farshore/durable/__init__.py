"""Long operations that survive the server: how a job is declared, runs its steps, reports its progress and is
cancelled.

Below ``protection`` and ``recovery``, which declare jobs; ``configuration_server/jobs`` registers and shows them.
"""
