"""One use case per function: validate, decide, write, tell."""
