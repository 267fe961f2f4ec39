"""Literal text, looked for in id, title and task.

The text is cut into words at everything that is neither letter nor digit, without regard to case and
accents. A session matches when one of the three holds these words one after another; the last one may be
the beginning of a word if it has three characters or more. Where the text has other characters than
letters, digits and single blanks, the place must also read exactly so (case aside): `100%` does not find
`100 percent`. A text without any letter or digit is looked for, as it stands, in the newest 20,000 sessions.
A session also matches when its id ends with the text (four characters or more).
"""

import re
from typing import Any, NamedTuple

import apsw

SUFFIX_INDEXED = 4  # characters in the index `session_end_search`
PREFIX_MIN = 3
SCANNED_MAX = 20_000
MATCHES_MAX = 10_000
TEXT_MAX = 1_000  # characters; a longer text is refused
LITERAL = "literal_in"

# Constants only are put into SQL text here; what people type is always bound.
_MATCHES = "s.session_search MATCH ?"
_NEWEST_KEYS = (
    "SELECT session_key FROM session_ledger"  # noqa: S608 - a constant
    f" ORDER BY started_at DESC, session_id DESC LIMIT {SCANNED_MAX}"
)
_WORD = re.compile(r"[^\W_]+")
_PLAIN = re.compile(r"[^\W_]+(?: [^\W_]+)*")

INDEX_NOTED = (
    (
        "INSERT INTO session_search (rowid, session_id, task_title, task_text)"
        " SELECT l.session_key, l.session_id, l.task_title, l.task_text"
        " FROM session_search_pending AS p CROSS JOIN session_ledger AS l ON l.session_key = p.session_key"
    ),
    (
        "INSERT INTO session_end_search (rowid, ending) SELECT e.session_key, e.ending"
        # CROSS: what is noted leads, in order; the ids' own index would be read whole, in another order
        " FROM session_search_pending AS p CROSS JOIN session_id_ends AS e ON e.session_key = p.session_key"
    ),
    "DELETE FROM session_search_pending",
)

Binding = str | int


class TextCondition(NamedTuple):
    """An SQL condition over `l` (session_ledger), with its bindings."""

    sql: str
    bindings: tuple[Binding, ...]
    scans: bool = False  # only the newest sessions are looked at


def match_expression(text: str) -> str | None:
    """The FTS5 expression for the words of a text, None when it has none."""
    words = _WORD.findall(text)
    if not words:
        return None
    prefix = "*" if len(words[-1]) >= PREFIX_MIN and text[-1:] == words[-1][-1:] else ""
    return '"' + " ".join(words) + '"' + prefix


def plain_expression(text: str) -> str | None:
    """The expression for a text that needs no look at the rows themselves; None for any other text."""
    needle = text.strip()
    if len(text) > TEXT_MAX or not text.isprintable() or not _PLAIN.fullmatch(needle):
        return None
    return match_expression(needle)


def text_condition(connection: apsw.Connection, text: str) -> TextCondition:
    """The condition for a text; raises ValueError for one that no stored text can hold, or too long."""
    if len(text) > TEXT_MAX:
        raise ValueError(f"text: longer than {TEXT_MAX} characters")
    if "\0" in text:
        raise ValueError("text: a NUL character cannot be looked for")
    text.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    needle = text.strip()
    expression = match_expression(needle)
    if expression is None:
        sql = f"(l.session_key IN ({_NEWEST_KEYS}) AND {_literal_call()})"
        return TextCondition(sql, (needle.casefold(),), scans=True)
    return _by_words(connection, needle, expression)


def _by_words(connection: apsw.Connection, needle: str, expression: str) -> TextCondition:
    """Few matches are fetched at once; of many, each row of the page is asked for itself."""
    counted = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM session_search WHERE session_search MATCH ? LIMIT ?)",
        (expression, MATCHES_MAX + 1),
    ).get
    if counted > MATCHES_MAX and not expression.endswith("*"):
        matched = f"EXISTS (SELECT 1 FROM session_search AS s WHERE {_MATCHES} AND s.rowid = l.session_key)"  # noqa: S608
    else:
        matched = "l.session_key IN (SELECT rowid FROM session_search WHERE session_search MATCH ?)"
    bindings: tuple[Binding, ...] = (expression,)
    if not _PLAIN.fullmatch(needle):
        matched = f"({matched} AND {_literal_call()})"
        bindings += (needle.casefold(),)
    if len(needle) < SUFFIX_INDEXED or " " in needle:
        return TextCondition(matched, bindings)
    ends = f"l.session_key IN (SELECT session_key FROM session_ledger WHERE {SUFFIX_SQL})"  # noqa: S608 - constants
    return TextCondition(f"({matched} OR {ends})", (*bindings, *suffix_bindings(needle)))


# Sessions whose id ends with a text; those of the running transaction are not indexed yet.
SUFFIX_SQL = (
    "session_key IN (SELECT rowid FROM session_end_search WHERE session_end_search MATCH ?"
    " UNION ALL SELECT session_key FROM session_search_pending) AND substr(session_id, -?) = ?"
)


def suffix_bindings(fragment: str) -> tuple[Binding, ...]:
    """What `SUFFIX_SQL` needs for a fragment of four characters or more."""
    ending = fragment[-SUFFIX_INDEXED:].encode(errors="replace").hex()
    return (f'"{ending}"', len(fragment), fragment)


def _literal_call() -> str:
    return f"{LITERAL}(?, l.session_id, l.task_title, l.task_text)"


def index_noted(connection: apsw.Connection) -> None:
    """Puts the words of all noted sessions into the full-text index, within the running transaction."""
    # Emptying an empty table writes a page all the same: a commit that changes nothing must not.
    if connection.execute("SELECT 1 FROM session_search_pending LIMIT 1").get is None:
        return
    for statement in INDEX_NOTED:
        connection.execute(statement)


def register(connection: apsw.Connection) -> None:
    """Gives a connection the function that the conditions call."""
    connection.create_scalar_function(LITERAL, _literal_in, 4, deterministic=True)


def _literal_in(*values: Any) -> bool:
    needle, *texts = values
    return any(needle in text.casefold() for text in texts if text)
