"""How machines come under protection and stay there: enrolment, epochs, heartbeats, points, the RPO watch."""
