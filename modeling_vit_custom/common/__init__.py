"""Code that every subpackage uses: files, processes, errors, text. It imports no other subpackage."""
