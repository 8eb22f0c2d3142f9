"""Inference: a saved checkpoint applied to many image files."""
