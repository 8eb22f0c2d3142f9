"""Trainings told from the top: train, pretrain, search, and what each leaves in its folder."""
