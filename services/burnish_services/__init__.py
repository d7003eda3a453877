"""The Burnish servers: scoring, embedding, rewriting and training over gRPC, run by `python -m burnish_services`."""
