"""What a classifier decides by on a data set, where that is not the object: evidence, suspicion, intervention."""
