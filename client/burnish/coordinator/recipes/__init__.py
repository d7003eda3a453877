"""Recipes: each published method as settings and a composition of the same steps."""
