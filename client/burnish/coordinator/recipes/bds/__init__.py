"""Bilevel data selection: its settings, and the method on one page."""
