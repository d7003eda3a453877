"""What the efficacy bench found, as a page with pictures and as tables for the documentation. See `__main__.py`."""
