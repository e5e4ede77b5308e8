"""The mobility service brought to machines at this server's site, for jobs of a configuration server elsewhere."""
