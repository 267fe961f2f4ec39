"""The typed configuration; reading files and the environment belongs to `host`."""
