"""The recipe that chooses by itself: its settings. The method is `recipes/filter/loop.py`."""
