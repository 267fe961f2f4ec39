"""Composition roots: the one place that builds and connects everything."""
