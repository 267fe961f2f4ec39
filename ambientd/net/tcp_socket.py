"""The TCP listener of the local API, and who is at the other end of its connections."""

import errno
import socket

from ambientd.ports.http import Caller

BACKLOG = 128


def open_tcp_listener(host: str, port: int) -> socket.socket:
    """Listens on one address, and on no other: an IPv6 listener takes no IPv4. Raises OSError.

    An address in TIME_WAIT is taken again; one that somebody listens on is not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def port_of(sock: socket.socket) -> int:
    """The port that a listener has got."""
    return int(sock.getsockname()[1])


def caller_of_tcp(sock: socket.socket) -> Caller:
    """Who connected: an address, and no right to anything before the door. Raises OSError."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError(errno.EAFNOSUPPORT, "not a TCP connection")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Caller(transport="tcp", uid=None, pid=None, may_write=False, ip=str(sock.getpeername()[0]))
