"""What goes onto machines: units, the server appliance, ways to bring the mobility service."""
