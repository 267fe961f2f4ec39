"""Where the feed is: the lexical rules of its path (seed "Heartbeat Event Spec" 6, R2.38-R2.43).

A refused path is never replaced by another one: the feed stays silent and status says why. Whether
the path leads to a regular file is for `host/feedopen.py`, which can look.
"""

import re
from typing import NamedTuple

from ambientd.wire.places import ENV_FEED, FEED_DEFAULT

REFERENCE = "ref://activity_feed"
PATH_LIMIT = 4095
NAME_LIMIT = 255


class FeedPath(NamedTuple):
    """An absolute `path`, or the sentence that says why there is none; `source` is where it was set."""

    path: str | None
    refusal: str | None
    source: str


def resolve_feed_path(
    *, environment: str | None, configured: str | None, state_dir: str, home: str | None
) -> FeedPath:
    """The feed's path from `LUKA_ACTIVITY_FEED_JSONL`, else the configuration, else the default.

    Blank values count as unset. Relative paths are below `state_dir` (an absolute path), whatever the
    current directory is; `~` is `home`; `ref://activity_feed` is the default.
    """
    for value, source in ((environment, ENV_FEED), (configured, "heartbeat.feed")):
        if value is not None and value.strip():
            return _resolve(value.strip(), source, state_dir, home)
    return _resolve(FEED_DEFAULT, "default", state_dir, home)


def _resolve(value: str, source: str, state_dir: str, home: str | None) -> FeedPath:
    refusal = _refusal(value, home)
    if refusal is not None:
        return FeedPath(None, f"{source}: {refusal}", source)
    path = _absolute(value, state_dir, home)
    refusal = _too_long(path)
    if refusal is not None:
        return FeedPath(None, f"{source}: {refusal}", source)
    return FeedPath(path, None, source)


def _refusal(value: str, home: str | None) -> str | None:
    """Why a value cannot name the feed."""
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
        return "the path holds a control character"
    if ".." in re.split(r"[/\\]", value):
        return "the path holds a '..' component"
    if value.startswith("ref://") and value != REFERENCE:
        return f"only {REFERENCE} is known as a reference"
    if value.startswith("~") and value != "~" and not value.startswith("~/"):
        return "only '~/' is known as a home directory"
    if value.startswith("~") and not (home and home.startswith("/")):
        return "there is no home directory for '~'"
    if value in ("~", ".") or value.endswith(("/", "/.")):
        return "the path names a folder, not a file"
    return None


def _absolute(value: str, state_dir: str, home: str | None) -> str:
    if value == REFERENCE:
        value = FEED_DEFAULT
    if value.startswith("~/"):
        return f"{home}".rstrip("/") + value[1:]
    return value if value.startswith("/") else state_dir.rstrip("/") + "/" + value


def _too_long(path: str) -> str | None:
    if len(path.encode("utf-8", "surrogateescape")) > PATH_LIMIT:
        return f"the path is longer than {PATH_LIMIT} bytes"
    if any(len(part.encode("utf-8", "surrogateescape")) > NAME_LIMIT for part in path.split("/")):
        return f"a name in the path is longer than {NAME_LIMIT} bytes"
    return None
