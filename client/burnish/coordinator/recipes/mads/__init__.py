"""MADS-style core-set selection by what a model's neurons do: its settings, and the method on one page."""
