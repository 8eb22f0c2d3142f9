"""A frozen encoder's features, computed once, and the heads that are fitted to them."""
