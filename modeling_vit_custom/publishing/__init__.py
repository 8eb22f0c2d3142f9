"""Publishing: from a trained folder to a repository that anyone can check."""
