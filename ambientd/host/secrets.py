"""Secrets: a type that does not show itself, and the only places they are read from (FAULTS A5)."""

import hmac
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from ambientd.config.checks import is_variable_name

MASK = "***"
# Keys and tokens are short; a certificate chain still fits.
MAX_SECRET_SIZE = 64 * 1024
ENV_CREDENTIALS = "CREDENTIALS_DIRECTORY"


class SecretError(Exception):
    """A secret that was configured cannot be used. `problems` are sentences without any value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Secret:
    """A text that prints as `***` wherever it is printed; only `reveal` gives it away."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]  # a hash in a log would be a hint

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one call that needs it."""
        return self._value

    def matches(self, candidate: bytes) -> bool:
        """Whether `candidate` is this secret, in a time that does not depend on where they differ."""
        return equal_bytes(self._value.encode(), candidate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.matches(other._value.encode())

    def __len__(self) -> int:
        """Characters, for the check of a least length."""
        return len(self._value)

    def __repr__(self) -> str:
        return MASK

    def __format__(self, _spec: str) -> str:
        return MASK

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


def equal_bytes(left: bytes, right: bytes) -> bool:
    """Equality in constant time for equal lengths."""
    return hmac.compare_digest(left, right)


def find_secret(
    credential: str,
    *,
    environ: Mapping[str, str],
    file: str | None = None,
    variables: Sequence[str] = (),
) -> Secret | None:
    """The secret from systemd's credential, else from `file`, else from the first non-empty variable.

    None when it is given nowhere. Raises SecretError when the place that gives it cannot be used: the next
    place is not tried, so a wrong mode cannot bring back an old secret.
    """
    directory = environ.get(ENV_CREDENTIALS)
    if directory and (found := _read_credential(directory, credential)) is not None:
        return found
    if file is not None:
        return read_secret_file(file)
    for name in variables:
        if environ.get(name):
            return Secret(_checked_text(environ[name].encode(errors="surrogateescape"), f"variable {name}"))
    return None


def read_secret_file(path: str) -> Secret:
    """The content of a private file without its trailing newlines.

    The file must be regular and no symbolic link, belong to this user or root, give group and others no
    permission, and not be empty. Raises SecretError with the reason.
    """
    return Secret(_checked_text(_read_private(path, stat.S_IRWXG | stat.S_IRWXO), path))


def read_environment_file(path: str) -> dict[str, Secret]:
    """Variables from lines `KEY=value`, under the same rules as `read_secret_file`.

    Blank lines and lines beginning with `#` or `;` are skipped. A value may stand in single quotes (taken
    as it is) or in double quotes (a backslash escapes the next character; `n` and `t` are newline and tab);
    otherwise it is the rest of the line without blanks around it. Raises SecretError listing every bad
    line by number, never by content.
    """
    text = _decoded(_read_private(path, stat.S_IRWXG | stat.S_IRWXO), path)
    variables: dict[str, Secret] = {}
    problems: list[str] = []
    for number, name, value in _assignments(text):
        if value is None:
            problems.append(f"{path}: line {number} {name}")
        elif name in variables:
            problems.append(f"{path}: line {number} sets {name} a second time")
        else:
            variables[name] = Secret(value)
    if problems:
        raise SecretError(problems)
    return variables


def _read_credential(directory: str, name: str) -> Secret | None:
    """systemd decides owner and mode of its folder (0400, or 0440 with an access list), so only reading
    by everyone is refused."""
    path = os.path.join(directory, name)
    if not os.path.lexists(path):
        return None
    return Secret(_checked_text(_read_private(path, stat.S_IRWXO), f"credential {name}"))


def _read_private(path: str, forbidden: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        linked = os.path.islink(path)
        reason = "is a symbolic link" if linked else f"cannot be read: {(error.strerror or 'error').lower()}"
        raise SecretError([f"{path} {reason}"]) from None
    except ValueError:
        raise SecretError(["the path of a secret has a NUL character"]) from None
    try:
        fault = _fault(os.fstat(fd), forbidden)
        if fault is not None:
            raise SecretError([f"{path} {fault}"])
        return _read_bounded(fd, path)
    except OSError as error:
        raise SecretError([f"{path} cannot be read: {(error.strerror or 'error').lower()}"]) from None
    finally:
        os.close(fd)


def _read_bounded(fd: int, path: str) -> bytes:
    content = b""
    while len(content) <= MAX_SECRET_SIZE:
        part = os.read(fd, MAX_SECRET_SIZE + 1 - len(content))
        if not part:
            return content
        content += part
    raise SecretError([f"{path} is larger than {MAX_SECRET_SIZE // 1024} KiB"])


def _fault(facts: os.stat_result, forbidden: int) -> str | None:
    if not stat.S_ISREG(facts.st_mode):
        return "is not a regular file"
    if facts.st_uid not in {0, os.geteuid()}:
        return f"belongs to user {facts.st_uid}, not to user {os.geteuid()} or root"
    if facts.st_mode & forbidden:
        return f"has mode {stat.S_IMODE(facts.st_mode):04o}; other users may not have access (chmod 600)"
    if facts.st_size == 0:
        return "is empty"
    return None


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise SecretError([f"{name} is not UTF-8"]) from None
    if "\0" in text:
        raise SecretError([f"{name} has a NUL character"])
    return text


def _checked_text(content: bytes, name: str) -> str:
    text = _decoded(content, name).rstrip("\r\n")
    if not text.strip():
        raise SecretError([f"{name} is empty"])
    return text


def _assignments(text: str) -> Iterator[tuple[int, str, str | None]]:
    """(line number, name, value), or (line number, what is wrong, None)."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals:
            yield number, "is not KEY=value", None
        elif not is_variable_name(name.rstrip()):
            yield number, "does not begin with the name of a variable and =", None
        else:
            plain = _unquoted(value.strip())
            yield (
                number,
                name.rstrip() if plain is not None else "has a quote that is not closed at its end",
                plain,
            )


_ESCAPED = re.compile(r"\\(.)")
_PLAIN = {"n": "\n", "t": "\t"}


def _unquoted(value: str) -> str | None:
    if not value or value[0] not in "\"'":
        return value
    if value[0] == "'":
        inner = value[1:-1]
        return inner if len(value) > 1 and value[-1] == "'" and "'" not in inner else None
    if re.fullmatch(r'"(?:[^"\\]|\\.)*"', value) is None:
        return None
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[1], found[1]), value[1:-1])
