"""What --streaming true changes before training: how the data is read, and what cannot be had."""
