"""Benchmarks and held-out accuracy: comparisons and rewards in, figures with their uncertainty out."""
