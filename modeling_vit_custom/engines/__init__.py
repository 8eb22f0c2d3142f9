"""Engines that give a model's answers sooner, their files, and the choice among them."""
