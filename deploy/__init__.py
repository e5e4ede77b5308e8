"""How the servers and the mobility service come onto machines."""
