"""Policies: pure functions from score tables to decisions with reasons. Standard library and numpy only."""
