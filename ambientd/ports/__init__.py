"""What the inside needs from outside, as Protocols and the values they carry."""
