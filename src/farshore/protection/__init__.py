"""Bring machines under protection and keep them there: enrolment, epochs, heartbeats, points, the RPO watch."""
