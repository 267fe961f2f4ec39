"""Ingest contracts: from an envelope of some version to the one canonical session (specification 9.3).

`registry.read` is the way in. An adapter finds the values and takes them as they are; the validator checks
every one of them and reports every problem in a fixed order; only then do words change (`words`).
"""
