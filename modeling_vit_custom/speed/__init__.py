"""A trained classifier made faster: what each setting and format costs, files for other runtimes."""
