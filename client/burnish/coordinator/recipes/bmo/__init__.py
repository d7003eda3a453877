"""Bilevel selection with online self-refinement: its settings, and the method on one page."""
