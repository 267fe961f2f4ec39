"""What peers say to each other, without I/O: counters, frames, handshake, limits, one round of comparing.

`core/snapshot` is the signed unit, `core/peerlink` the machine that puts these together for one link.
"""
