"""Benchmarks against peers, measured in turn in one run."""
