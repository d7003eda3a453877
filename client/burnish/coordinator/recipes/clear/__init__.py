"""CLEAR (arXiv 2403.12776): its settings, and the method on one page."""
