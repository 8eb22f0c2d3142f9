"""Conversion: checkpoints of other libraries into this model, and back."""
