"""Which kept files are due to go: by age, with a minimum kept whatever their age (R2.90)."""

from collections.abc import Iterable

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """One handed-in file with the notes beside it. `at` is its last change in epoch seconds."""

    names: tuple[str, ...]
    at: float
    bytes: int


def due(items: Iterable[Kept], *, keep: float, keep_at_least: int, now: float) -> tuple[Kept, ...]:
    """Items older than `keep` seconds, oldest first, never touching the `keep_at_least` newest."""
    newest_first = sorted(items, key=lambda item: (item.at, item.names), reverse=True)
    old = [item for item in newest_first[keep_at_least:] if now - item.at > keep]
    return tuple(reversed(old))


def group(entries: Iterable[tuple[str, float, int]]) -> tuple[Kept, ...]:
    """Puts `<stem>.json`, `<stem>.reason.json` and `<stem>.result.json` together.

    Entries are (name, epoch seconds, bytes). Names of another form are not ours and are left out, so that
    they are never deleted.
    """
    found: dict[str, list[tuple[str, float, int]]] = {}
    for entry in entries:
        name = entry[0]
        if name.endswith(".json") and not name.startswith("."):
            stem = name.removesuffix(".json").removesuffix(".reason").removesuffix(".result")
            found.setdefault(stem, []).append(entry)
    return tuple(
        Kept(
            names=tuple(sorted(name for name, _, _ in members)),
            at=max(at for _, at, _ in members),
            bytes=sum(size for _, _, size in members),
        )
        for members in found.values()
    )
