"""Audit: what is wrong with a folder or table of images, found before a model is trained on it."""
