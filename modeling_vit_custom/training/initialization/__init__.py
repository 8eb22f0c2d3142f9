"""Where weights begin: a checkpoint, random numbers, a fitted head, adapters."""
