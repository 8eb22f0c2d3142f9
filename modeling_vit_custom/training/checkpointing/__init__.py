"""What a run leaves on disk to continue from: sealed checkpoints, locks, records of images and settings."""
