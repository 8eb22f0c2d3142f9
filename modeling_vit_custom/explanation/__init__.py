"""Explanations of a decision: maps of the evidence, what they are worth, and their pictures."""
