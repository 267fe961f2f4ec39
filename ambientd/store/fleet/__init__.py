"""The control plane's database: repositories written once, over SQLite and over PostgreSQL."""
