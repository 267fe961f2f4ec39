"""Says on the LAN, as fast as it goes, that there are nodes.

    python -m tests.lan.announcer ADDRESS HINT SECONDS

Made-up instances with made-up addresses of the neighbourhood and a key that somebody may trust.
"""

import os
import socket
import struct
import sys
import time

GROUP, PORT = "224.0.0.251", 5353
SERVICE = "_ambient-peer._tcp.local"
PTR, TXT, SRV, A = 12, 16, 33, 1
CLASS, FLUSH = 1, 0x8001


def name(text: str) -> bytes:
    parts = [part.encode() for part in text.split(".")]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def record(owner: str, kind: int, data: bytes, cls: int = CLASS) -> bytes:
    return name(owner) + struct.pack("!HHIH", kind, cls, 4500, len(data)) + data


def announcement(instance: str, hint: str, address: bytes) -> bytes:
    full, server = f"{instance}.{SERVICE}", f"{instance}.local"
    text = b"k=" + hint.encode()
    records = (
        record(SERVICE, PTR, name(full)),
        record(full, SRV, struct.pack("!HHH", 0, 0, 7946) + name(server), FLUSH),
        record(full, TXT, bytes([len(text)]) + text, FLUSH),
        record(server, A, address, FLUSH),
    )
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def main(own: str, hint: str, seconds: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.bind((own, PORT))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                address = b"\x0a\xd5\x07" + os.urandom(1)
                sock.sendto(announcement(os.urandom(6).hex(), hint, address), (GROUP, PORT))
            except OSError:
                continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
