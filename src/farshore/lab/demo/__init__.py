"""Demonstrate the main job: a real machine under load is protected, is lost, and comes up from the vault.

``python -m farshore.lab.demo`` (``make demo``) plays the operator: everything is done through the ``farshore`` command,
and every claim in the closing table is measured from outside.
"""
