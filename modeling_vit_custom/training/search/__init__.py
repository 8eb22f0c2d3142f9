"""A fitted head, and the gain of fine-tuning from it, measured on held-out images."""
