"""Load on the services: what a call costs, what overload does, and what replicas add."""
