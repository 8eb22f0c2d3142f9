"""Where initial weights come from: a checkpoint, random numbers, a fitted head, adapters."""
