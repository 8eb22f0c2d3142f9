"""The flags of a training: declared, checked, completed."""
