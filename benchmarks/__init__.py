"""Timings beside PyTorch, as ratios taken in one run."""
