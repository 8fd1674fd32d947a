"""Benchmark of `corollary.unlearning`."""
