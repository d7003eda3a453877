"""Hours of mixed traffic on one server, to see that it keeps nothing of it."""
