"""What every room uses: files, processes, errors, text. It imports no other room."""
