"""Datasets: files on disk as examples with labels that have been checked."""
