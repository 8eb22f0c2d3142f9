"""Optimization: parameter groups, Muon, weight averages, a time budget."""
