"""The files from which a run continues: sealed checkpoints, locks, records of images and settings."""
