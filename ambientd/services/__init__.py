"""Supervised loops that own time."""
