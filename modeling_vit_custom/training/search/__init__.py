"""A fitted head and what fine-tuning from it gains, by held-out images."""
