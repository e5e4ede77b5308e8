"""Failover, test failover, clean-up and commit as durable jobs; upkeep of what they brought up."""
