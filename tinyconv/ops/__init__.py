"""Differentiable operators, a file a family: what is kept for backward, and how backward follows."""
