"""Benches: our work against a named peer, in one run, on the same samples. `make bench-<name>`; SIZE=small|full."""
