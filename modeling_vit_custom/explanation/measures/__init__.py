"""What a map is worth: cells are replaced, and the score is watched; masks, where there are some."""
