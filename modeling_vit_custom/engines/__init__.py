"""The same answers sooner: engines, their files, the choice among them."""
