"""Push the mobility service to machines at this server's site, for jobs of a configuration server elsewhere."""
