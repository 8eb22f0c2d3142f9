"""A frozen encoder's features, computed once: heads that are fitted to them, an index, search and maps."""
