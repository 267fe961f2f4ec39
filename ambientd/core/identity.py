"""The node's identity: the text of its key file, and the statement that one key follows another.

A file is a few lines; the seed in it is the only secret:

    ambient-identity-v1
    host sha256:<64 hexadecimal digits>
    seed <64 hexadecimal digits>
    rollover <statement>                     (only where the key followed another)

A key given from outside (a systemd credential) may also be the 64 digits of the seed alone; it is then
bound to no host.
"""

import re
from collections.abc import Iterable
from datetime import datetime

import msgspec

from ambientd.core.canonical import framed
from ambientd.core.ed25519 import parse_key, show_key, sign, verify
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms

HEAD = "ambient-identity-v1"
DOMAIN = b"ambient-key-rollover-v1"
SEED_BYTES = 32
FILE_MAX = 4096  # characters; a file with a rollover has about 800
CHAIN_MAX = 1_000  # of keys that followed one another; an operator makes each by hand
_HEX = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"sha256:[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


class Rollover(msgspec.Struct, frozen=True, kw_only=True):
    """One key follows another, said and signed by both: the old one names its successor, the new one takes
    its place. Nobody trusts the new key for it; a person, or a control plane, may."""

    old_key: bytes
    new_key: bytes
    from_host: str
    to_host: str
    at: str
    old_signature: bytes
    new_signature: bytes

    @property
    def is_genuine(self) -> bool:
        """Whether both keys have signed exactly this."""
        message = _rollover_bytes(self.old_key, self.new_key, self.from_host, self.to_host, self.at)
        return verify(self.old_key, message, self.old_signature) and verify(
            self.new_key, message, self.new_signature
        )

    @property
    def text(self) -> str:
        """The statement on one line."""
        keys = f"{show_key(self.old_key)} {show_key(self.new_key)}"
        hosts = f"{self.from_host or '-'} {self.to_host or '-'}"
        return f"{keys} {hosts} {self.at} {self.old_signature.hex()} {self.new_signature.hex()}"


def _rollover_bytes(old_key: bytes, new_key: bytes, from_host: str, to_host: str, at: str) -> bytes:
    return framed(DOMAIN, old_key, new_key, from_host.encode(), to_host.encode(), at.encode())


def parse_rollover(text: str) -> Rollover | None:
    """The statement on a line; None for anything else. Its signatures are not verified here."""
    words = text.split(" ")
    if len(words) != 7:
        return None
    old, new, from_host, to_host, at, old_signature, new_signature = words
    old_key, new_key = parse_key(old), parse_key(new)
    hosts_fit = all(host == "-" or _HOST.fullmatch(host) for host in (from_host, to_host))
    signed = _SIGNATURE.fullmatch(old_signature) and _SIGNATURE.fullmatch(new_signature)
    if old_key is None or new_key is None or not hosts_fit or not signed or not _is_instant(at):
        return None
    return Rollover(
        old_key=old_key,
        new_key=new_key,
        from_host=from_host.removeprefix("-"),
        to_host=to_host.removeprefix("-"),
        at=at,
        old_signature=bytes.fromhex(old_signature),
        new_signature=bytes.fromhex(new_signature),
    )


def _is_instant(text: str) -> bool:
    try:
        return rfc3339_ms(parse_rfc3339(text)) == text
    except ValueError:
        return False


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a key file says. `host` is None for a key that is bound to no host."""

    seed: bytes
    host: str | None = None
    rollover: Rollover | None = None

    def __repr__(self) -> str:
        """Without the seed: values end up in tracebacks."""
        return f"KeyFile(host={self.host!r})"

    @property
    def text(self) -> str:
        """The file's content. Holds the seed."""
        lines = [HEAD, f"host {self.host or '-'}", f"seed {self.seed.hex()}"]
        if self.rollover is not None:
            lines.append(f"rollover {self.rollover.text}")
        return "\n".join(lines) + "\n"


def parse_key_file(text: str) -> KeyFile | str:
    """The file's meaning, or what is wrong with it, in words that go on after its name; never its content."""
    if len(text) > FILE_MAX:
        return "is too long for a node's key"
    lines = text.rstrip("\r\n").split("\n")
    if len(lines) == 1 and _HEX.fullmatch(lines[0].strip()):
        return KeyFile(seed=bytes.fromhex(lines[0].strip()))
    if lines[0] != HEAD:
        return f"is no node's key: its first line is not {HEAD}"
    found = dict(line.split(" ", 1) for line in lines[1:] if " " in line)
    if len(found) != len(lines) - 1 or not {"host", "seed"} <= found.keys() <= {"host", "seed", "rollover"}:
        return "is damaged: it does not have the lines of a node's key"
    host, seed = found["host"], found["seed"]
    if not _HEX.fullmatch(seed):
        return "is damaged: its seed is not 64 hexadecimal digits"
    if host != "-" and not _HOST.fullmatch(host):
        return "is damaged: its host is no host id"
    rollover = None
    if "rollover" in found:
        rollover = parse_rollover(found["rollover"])
        if rollover is None:
            return "is damaged: its rollover is no statement"
    return KeyFile(seed=bytes.fromhex(seed), host=None if host == "-" else host, rollover=rollover)


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """A seed with its public key, to state a rollover."""

    seed: bytes
    public: bytes
    host: str

    def __repr__(self) -> str:
        """Without the seed."""
        return f"Keys({show_key(self.public)})"


def roll_over(old: Keys, new: Keys, at: datetime) -> Rollover:
    """The statement that `new` follows `old`, signed by both."""
    when = rfc3339_ms(at)
    message = _rollover_bytes(old.public, new.public, old.host, new.host, when)
    return Rollover(
        old_key=old.public,
        new_key=new.public,
        from_host=old.host,
        to_host=new.host,
        at=when,
        old_signature=sign(old.seed, message),
        new_signature=sign(new.seed, message),
    )


def vouched(current: bytes, rollovers: Iterable[Rollover]) -> frozenset[bytes]:
    """The key and those that it followed, by statements that both sides have signed."""
    before: dict[bytes, list[bytes]] = {}
    for rollover in rollovers:
        if rollover.is_genuine:
            before.setdefault(rollover.new_key, []).append(rollover.old_key)
    known, waiting = {current}, [current]
    while waiting and len(known) <= CHAIN_MAX:
        for key in before.get(waiting.pop(), ()):
            if key not in known:
                known.add(key)
                waiting.append(key)
    return frozenset(known)
