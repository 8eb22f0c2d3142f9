"""Audit: problems in a folder or table of images, found before a model is trained on it."""
