"""Measurements against peers, alternately, in one run."""
