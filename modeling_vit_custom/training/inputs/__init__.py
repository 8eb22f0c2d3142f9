"""What becomes of images before they are learned from: augmentation, mixing, order."""
