"""Do recipes find what is wrong with data, and does that make better models? See `__main__.py`."""
