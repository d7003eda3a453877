"""Golden values: what the transformers engine in float32 says to a few samples, and how they are made."""
