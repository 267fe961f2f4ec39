"""Adapters: where the values of each contract version stand. They take structure apart and change nothing.

What an adapter hands on has canonical names, the sender's own paths, and the values exactly as they came;
a value that is not there is not there (R3.158). JSON null counts as not there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ambientd.core.contracts import names
from ambientd.core.contracts.problems import Found, shown

# More than 1 MiB can hold in any useful form; a bound of its own for callers without a body.
EVENTS_MAX = 10_000


class Given(NamedTuple):
    """A value as it came, and where it stood: its key, and the path of the object around it."""

    value: Any
    key: str
    place: str = ""

    @property
    def path(self) -> str:
        """The sender's path of the value; made on demand, for most values are never told of."""
        return f"{self.place}.{self.key}" if self.place else self.key


class Section(NamedTuple):
    """The values of one object under their canonical names; `camel` when it is written in camelCase."""

    path: str
    values: Mapping[str, Given]
    camel: bool = False

    def path_of(self, table: Mapping[str, tuple[str, ...]], name: str) -> str:
        """Where the sender put a field, or would have."""
        given = self.values.get(name)
        if given is not None:
            return given.path
        return f"{self.path}.{names.own_spelling(table, name, camel=self.camel)}"


class Adapted(NamedTuple):
    """A payload taken apart. `session` holds the fields of the session and of its usage.

    `has_session` is false when there was no object to look into: then that is the problem, not its fields.
    """

    session: Section
    has_session: bool
    events: tuple[Section, ...]
    events_name: str


class Layout(NamedTuple):
    """How one contract version calls its parts."""

    session: str
    events: str
    usage: str = "usage"


class GatewayAdapter:
    """Takes payloads of one layout apart."""

    def __init__(self, layout: Layout) -> None:
        """The layout's names are the only difference between the versions."""
        self._layout = layout

    def adapt(self, payload: Mapping[str, Any], found: Found) -> Adapted:
        """The payload's parts; everything wrong with its structure goes to `found`."""
        layout = self._layout
        session = self._session(payload, found)
        events = self._events(payload.get(layout.events), found)
        for name in _strange(payload, layout):
            found.add(shown(name), "unknown", "is no part of this contract", ", ".join(layout))
        has_session = isinstance(payload.get(layout.session), dict)
        return Adapted(session, has_session, events, layout.events)

    def _session(self, payload: Mapping[str, Any], found: Found) -> Section:
        name, usage_name = self._layout.session, self._layout.usage
        raw = payload.get(name)
        if not isinstance(raw, dict):
            if raw is None:
                found.required(name, "object")
            else:
                found.wrong_type(name, "object")
            section = Section(name, {})
        else:
            section = _section(raw, name, names.SESSION_WORDS, found)
        usage = payload.get(usage_name)
        if usage is None:
            return section
        if not isinstance(usage, dict):
            found.wrong_type(usage_name, "object")
            return section
        more = _section(usage, usage_name, names.USAGE_WORDS, found, before=section.values)
        return Section(name, more.values, section.camel)

    def _events(self, raw: object, found: Found) -> tuple[Section, ...]:
        name = self._layout.events
        if raw is None:
            return ()
        if not isinstance(raw, list):
            found.wrong_type(name, "array")
            return ()
        if len(raw) > EVENTS_MAX:
            found.add(name, "length", f"holds more than {EVENTS_MAX} events", f"at most {EVENTS_MAX} events")
            return ()
        sections = []
        for index, item in enumerate(raw):
            path = f"{name}[{index}]"
            if isinstance(item, dict):
                sections.append(_section(item, path, names.EVENT_WORDS, found))
            else:
                found.wrong_type(path, "object")
        return tuple(sections)


def _section(
    raw: Mapping[Any, Any],
    path: str,
    words: Mapping[str, str],
    found: Found,
    before: Mapping[str, Given] | None = None,
) -> Section:
    """Renames keys by the table. Problems are told in the order of the keys' names, never as they stood."""
    values: dict[str, Given] = {} if before is None else dict(before)
    expected, camel = len(values), False
    for key, value in raw.items():
        name = words.get(key) if isinstance(key, str) else None
        if value is not None or name is None:
            expected += 1
        if name is not None:
            camel = camel or key in names.CAMEL
            if value is not None:
                values[name] = Given(value, key, path)
    if len(values) != expected:
        return _explain(raw, path, words, found, before)
    return Section(path, values, camel)


def _explain(
    raw: Mapping[Any, Any],
    path: str,
    words: Mapping[str, str],
    found: Found,
    before: Mapping[str, Given] | None,
) -> Section:
    """The same for an object with strange keys, or with two spellings of one field."""
    values: dict[str, Given] = {} if before is None else dict(before)
    camel, strange = False, []
    for key in sorted(raw, key=str):
        value = raw[key]
        name = words.get(key) if isinstance(key, str) else None
        if name is None:
            strange.append(key)
            continue
        camel = camel or key in names.CAMEL
        if value is not None and name in values:
            text = f"says the same as {values[name].path}"
            found.add(f"{path}.{key}", "ambiguous", text, "one spelling of a field")
        elif value is not None:
            values[name] = Given(value, key, path)
    for key in strange:
        found.add(f"{path}.{shown(key)}", "unknown", "is no field of this contract")
    return Section(path, values, camel)


def _strange(payload: Mapping[Any, Any], layout: Layout) -> list[Any]:
    return sorted((key for key in payload if key not in layout), key=str)
