"""SQLite behind the ports: connections, the single writer, the migration runner."""
