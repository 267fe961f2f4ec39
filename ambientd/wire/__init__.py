"""What daemon and CLI share. Every module here but those of messages is importable without msgspec."""
