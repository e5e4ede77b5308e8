"""Send alerts to people: which alerts are due on which channel, the message, and the channels that accept it."""
