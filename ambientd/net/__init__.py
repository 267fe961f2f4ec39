"""Sockets: reading and writing bytes; framing is h11's."""
