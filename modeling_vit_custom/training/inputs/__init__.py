"""Training images on their way to the model: order, augmentation, mixing."""
