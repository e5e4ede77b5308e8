"""Run failover, test failover, clean-up and commit as durable jobs, and look after the machines that they brought
up."""
