"""What the feed's helper process does: beats in on standard input, lines into the feed, answers out.

Each request and each answer is one line of JSON. The first request is `{"version", "path", "state_dir",
"host_id", "max_size", "keep"}`; every other is a beat: `{"event", "budget", "floor_ms", "doubt"}`.
`{"progress": true}` before an answer says that a long repair is going on. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

from ambientd.host.feedfile import Beat, FeedFile, FeedSettings, Machine

VERSION = 1
REQUEST_LIMIT = 64 * 1024
PROGRESS_EVERY = 0.5
EXIT_BAD_REQUEST = 2


def serve(
    *, monotonic: Callable[[], float], wall: Callable[[], float], sleep: Callable[[float], None]
) -> int:
    """Serves until standard input closes; returns the exit code. Raises ValueError for a bad request."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon decides: it closes standard input
    progress = _Progress(monotonic)
    machine = Machine(monotonic=monotonic, wall=wall, sleep=sleep, progress=progress.tell)
    feed: FeedFile | None = None
    pending = b""
    try:
        while data := os.read(0, REQUEST_LIMIT):
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > REQUEST_LIMIT:
                return EXIT_BAD_REQUEST
            for line in lines:
                request = json.loads(line)
                progress.told_at = monotonic()
                if feed is not None:
                    _answer(feed.append(Beat(**request)))
                    continue
                if request.pop("version") != VERSION:
                    return EXIT_BAD_REQUEST
                feed = FeedFile(FeedSettings(**request), machine)
                _answer({"ok": True, "version": VERSION})
    except BrokenPipeError:  # the daemon is gone
        return 0
    return 0


class _Progress:
    """Tells the daemon, not too often, that work goes on."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.told_at = 0.0

    def tell(self) -> None:
        now = self._monotonic()
        if now - self.told_at >= PROGRESS_EVERY:
            self.told_at = now
            _answer({"progress": True})


def _answer(document: dict[str, object]) -> None:
    data = json.dumps(document).encode("ascii") + b"\n"
    while data:
        data = data[os.write(1, data) :]
