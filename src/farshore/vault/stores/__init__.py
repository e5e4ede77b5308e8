"""Object stores: the port, a durable local folder, and everything that obstore reaches."""
