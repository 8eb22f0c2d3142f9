"""Training: flags, augmentation, optimiser groups, the Trainer, and the recipe that tells the story."""
