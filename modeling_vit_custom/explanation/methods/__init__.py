"""Ways to make a map: one function each, from the work to its maps; what they watch of a forward."""
