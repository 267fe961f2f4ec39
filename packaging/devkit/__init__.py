"""What `dev.py` does, in the standard library alone: environment, development daemon, checks, locks."""
