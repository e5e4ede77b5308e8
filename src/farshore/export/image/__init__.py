"""Write a recovery point as an image file for other hypervisors and clouds."""
