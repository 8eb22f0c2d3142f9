"""What a model is for: one record a task."""
