"""What went wrong, in sentences: what, where, what to try (LOOK 5.4), and the exit code for scripts."""

import errno
import json
import os
import sys
from datetime import datetime
from typing import Any

from ambientctl import term
from ambientctl.clock import now
from ambientctl.status import Options
from ambientctl.text import inert
from ambientctl.transport import Answer, AnswerError, AwayError
from ambientd.wire import exits, places
from ambientd.wire.errors import ERRORS

_UNIT_PLACES = tuple(f"{root}/systemd/system" for root in ("/etc", "/run", "/usr/lib", "/lib"))
_UNIT = "ambientd.service"
_STOPPED_MAX_BYTES = 64 * 1024
_DETAILS_SHOWN = 20


class CommandError(Exception):
    """The command ends with `exit`; `lines` go to standard error as they are.

    `code` is the daemon's error code when the daemon refused, else empty.
    """

    def __init__(self, exit_code: int, *lines: str, code: str = "") -> None:
        super().__init__(*lines)
        self.exit = exit_code
        self.lines = lines
        self.code = code

    def show(self) -> int:
        """Prints the lines; returns the exit code."""
        for line in self.lines:
            term.complain(line)
        return self.exit


def explain(error: AwayError | AnswerError, options: Options) -> CommandError:
    """The failure of an exchange that brought no answer."""
    if isinstance(error, AwayError):
        return _away(error.attempts, options)
    where = options.sockets[0]
    if error.sent and error.late:
        return CommandError(
            exits.UNREACHABLE,
            f"Error: the daemon did not answer within {options.limit:g}s.",
            f"  socket   {where}",
            f"  try      a longer --timeout, or the daemon's log{_log_hint()}",
        )
    return CommandError(
        exits.UNREACHABLE,
        f"Error: {error.reason}.",
        f"  socket   {where}",
        f"  try      is something else listening there? See the daemon's log{_log_hint()}",
    )


def _log_hint() -> str:
    return ": journalctl -u ambientd" if _has_unit() else ""


def refusal(answer: Answer) -> CommandError:
    """The error behind an answer that is not a success: the daemon's sentence and details, the exit code."""
    body = _error_body(answer.body)
    if body is None:
        return CommandError(
            exits.FAILED,
            f"Error: the daemon answered with status {answer.status} and no reason that can be understood.",
        )
    code, message = str(body.get("code", "")), str(body.get("message", ""))
    row = ERRORS.get(code)
    lines = [f"Error: {inert(message) or (row.sentence if row else code)}"]
    details = body.get("details")
    lines += _detail_lines(details if isinstance(details, list) else [])
    if code == "NOT_AUTHORIZED":
        lines.append("  try      as root, or as a member of the group ambient-admin:")
        lines.append(f"           sudo usermod -aG ambient-admin {_user()}    (then log in again)")
    elif code == "INTERNAL_ERROR":
        lines.append(f"  request  {inert(str(body.get('requestId', '')))} (the daemon's log has it)")
    return CommandError(row.exit if row else exits.FAILED, *lines, code=code)


def _error_body(raw: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    body = document.get("error") if isinstance(document, dict) else None
    return body if isinstance(body, dict) else None


def _detail_lines(details: list[Any]) -> list[str]:
    found = [item for item in details if isinstance(item, dict)]
    pairs = [(inert(str(item.get("field", ""))), inert(str(item.get("message", "")))) for item in found]
    wide = max((len(name) for name, _ in pairs), default=0)
    lines = [f"  {name.ljust(wide)}  {text}".rstrip() for name, text in pairs[:_DETAILS_SHOWN]]
    if len(pairs) > _DETAILS_SHOWN:
        lines.append(f"  and {len(pairs) - _DETAILS_SHOWN} more")
    return lines


# --- nobody there


def _away(attempts: list[tuple[str, int | None]], options: Options) -> CommandError:
    denied = [path for path, number in attempts if number in (errno.EACCES, errno.EPERM)]
    if denied:
        return _denied(denied[0])
    path, number = attempts[0]
    if number is None:
        length = len(os.fsencode(path))
        return CommandError(
            exits.UNREACHABLE,
            f"Error: {inert(path)} cannot be a socket: the path has {length} bytes, the most is 107.",
            f"  try      a shorter path for --socket or {places.ENV_SOCKET}",
        )
    # A socket that nobody listens on says more than a place where there never was one.
    path, number = next((pair for pair in attempts if pair[1] != errno.ENOENT), attempts[0])
    lines = [f"{_mark()} ambientd is not running.", f"  socket   {inert(path)}: {_reason(number)}"]
    last = _last_stop([path, *(other for other, _ in attempts if other != path)], options)
    if last:
        lines.append(f"  last     {last}")
    system = places.SYSTEM_RUNTIME + "/" + places.SOCKET_NAME
    if any(path == system for path, _ in attempts) and _has_unit():
        lines.append("  try      systemctl start ambientd")
    else:
        lines.append("  try      ambientd run")
        lines.append("           ambientd dev     (a throw-away node with sample agents)")
    return CommandError(exits.UNREACHABLE, *lines)


def _mark() -> str:
    return "o" if term.is_ascii() else "○"


def _reason(number: int | None) -> str:
    if number == errno.ENOENT:
        return "no such file"
    if number == errno.ECONNREFUSED:
        return "connection refused, nobody listens"
    return os.strerror(number or 0).lower()


def _has_unit() -> bool:
    return any(os.path.exists(f"{place}/{_UNIT}") for place in _UNIT_PLACES)


def _last_stop(paths: list[str], options: Options) -> str | None:
    """How the daemon ended, from its state file; None when that cannot be read."""
    system = places.SYSTEM_RUNTIME + "/" + places.SOCKET_NAME
    folders = [places.SYSTEM_STATE if path == system else os.path.dirname(path) for path in paths]
    if options.socket is None:
        folders.append(places.state_dir(os.environ, os.geteuid()))
    for folder in dict.fromkeys(folders):
        found = _read_stop(os.path.join(folder, places.STOPPED_NAME))
        if found is not None:
            return found
    return None


def _read_stop(path: str) -> str | None:
    try:
        # Non-blocking: a pipe with this name must not hold the command up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            document = json.loads(os.read(descriptor, _STOPPED_MAX_BYTES))
        finally:
            os.close(descriptor)
        at = datetime.fromisoformat(document["at"]).astimezone()
        code, reason = document["exit"], document.get("reason")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    today = datetime.fromtimestamp(now()).astimezone().date()
    when = at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M:%S")
    because = f": {inert(str(reason))}" if reason else ""
    return f"stopped {when}, exit {inert(str(code))}{because} (from the state file)"


def _denied(path: str) -> CommandError:
    """Names the group that may open the socket and the one command that helps."""
    head = f"Error: you may not open {inert(path)} (permission denied)."
    try:
        facts = os.stat(path)
    except OSError:
        group, owner, by_group = "ambient", "root", True
    else:
        group, owner = _group_name(facts.st_gid), _owner_name(facts.st_uid)
        by_group = bool(facts.st_mode & 0o020)
    user = _user()
    if not by_group:
        again = "ambientctl " + " ".join(sys.argv[1:])
        return CommandError(
            exits.NOT_PERMITTED,
            head,
            f"  Only its owner may: {owner}.",
            f"  try      sudo -u {owner} {inert(again)}".rstrip(),
        )
    if _is_member(user, group):
        return CommandError(
            exits.NOT_PERMITTED,
            head,
            f"  You are in the group {group}, but this login does not know it yet.",
            f"  try      newgrp {group}    (or log in again)",
        )
    return CommandError(
        exits.NOT_PERMITTED,
        head,
        f"  Members of the group {group} may.",
        f"  try      sudo usermod -aG {group} {user}    (then log in again)",
    )


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _owner_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _user() -> str:
    return _owner_name(os.geteuid())


def _is_member(user: str, group: str) -> bool:
    import grp

    try:
        return user in grp.getgrnam(group).gr_mem
    except KeyError:
        return False
