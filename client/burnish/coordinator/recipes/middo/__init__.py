"""Middo (arXiv 2508.21589): its settings, and the method on one page."""
