"""transformers' Trainer, in layers."""
