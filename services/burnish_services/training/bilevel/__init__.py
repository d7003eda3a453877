"""Bilevel data selection and self-refinement: the mathematics, beside methods of arXiv 2511.21056. Pure."""
