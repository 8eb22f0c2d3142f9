"""Publishing: a saved model staged, scanned, checked, and proven by golden outputs."""
