"""The OpenClaw Gateway's websocket protocol without I/O: frames, handshake, refusals, when to try again.

`conversation` holds one connection's state; `refusals` and `pacing` decide what follows its end.
"""
