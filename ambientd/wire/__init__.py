"""What daemon and CLI share. Every module here but `messages` is importable without msgspec."""
