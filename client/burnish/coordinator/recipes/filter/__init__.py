"""Filtering by one signal: its settings, and the method on one page."""
