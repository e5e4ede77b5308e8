"""Requests of the configuration server to this machine: received over a stream, carried out once, answered.

``fetching`` receives, ``handling`` carries out and answers, ``record`` remembers over a restart what was begun.
"""
