"""Faster use of a trained classifier: what each setting and format costs, files for other runtimes."""
