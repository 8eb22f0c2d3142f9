"""Whole training runs: train, pretrain, search, and the files that each leaves in its folder."""
