"""Finds and reads the configuration: main file, `conf.d/*.toml`, variables, flags (CONTRACT 2).

Nothing raises: whatever is wrong with a file is a `Problem` beside the problems of what could be read.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ambientd.config.environment import environment_layers
from ambientd.config.locate import Lines
from ambientd.config.parse import Layer, Parsed, parse
from ambientd.config.problems import Problem, show_text
from ambientd.config.schema import Config
from ambientd.config.toml import TomlMistake, read_key, read_toml
from ambientd.wire import places

# The whole schema with a hundred agents is some tens of kilobytes.
MAX_FILE_SIZE = 1024 * 1024
# More drop-ins than anyone keeps; each costs an open at start.
MAX_FILES = 256
FOLDER = "conf.d"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was looked for. `text` is None when it could not be read or is not there."""

    path: str
    label: str
    text: str | None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """The outcome of `load`. `config` is None exactly when there are problems.

    `sources` are the labels of all layers that were used, in order, the last one winning; `provenance`
    maps each dotted key to one of them or to "default".
    """

    config: Config | None
    provenance: Mapping[str, str]
    sources: tuple[str, ...]
    files: tuple[ConfigFile, ...]
    problems: tuple[Problem, ...]


def load(
    environ: Mapping[str, str],
    uid: int,
    *,
    config: str | None = None,
    flags: Sequence[Layer] = (),
    main_text: str | None = None,
    base: Sequence[Layer] = (),
) -> LoadedConfig:
    """Reads everything anew. `config` is the value of `--config`; `flags` are the last layers.

    A missing main file is a problem only when `config` or AMBIENT_CONFIG names it. `main_text` stands in
    for the main file's content, to try a change before it is written. `base` are layers under the files.
    """
    files = read_files(environ, uid, config=config, main_text=main_text)
    return _evaluate(files, environ, flags, base)


def read_files(
    environ: Mapping[str, str], uid: int, *, config: str | None = None, main_text: str | None = None
) -> tuple[ConfigFile, ...]:
    """The main file and its drop-ins, in the order in which they count."""
    path = config if config is not None else places.config_file(environ, uid)
    named = config is not None or bool(environ.get(places.ENV_CONFIG))
    main = ConfigFile(path, _label(path), main_text) if main_text is not None else _read_main(path, named)
    return (main, *_read_folder(os.path.join(os.path.dirname(path), FOLDER), uid))


def _read_main(path: str, named: bool) -> ConfigFile:
    file = _read(path, _label(path))
    if file is not None:
        return file
    if not named:
        return ConfigFile(path, _label(path), None)
    return _refused(path, _label(path), "does not exist")


def _label(path: str) -> str:
    """A path as it may be printed; odd characters are escaped."""
    return path if path.isprintable() and path else show_text(path, len(path))


def _read_folder(folder: str, uid: int) -> list[ConfigFile]:
    try:
        names = sorted(name for name in os.listdir(folder) if _is_drop_in(name))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [_refused(folder, FOLDER, f"cannot be read: {_reason(error)}")]
    if len(names) > MAX_FILES:
        what = f"holds {len(names)} files; at most {MAX_FILES} are read"
        return [_refused(folder, FOLDER, what)]
    files = (_read(os.path.join(folder, name), f"{FOLDER}/{_label(name)}", uid) for name in names)
    return [file for file in files if file is not None]


def _is_drop_in(name: str) -> bool:
    return name.endswith(".toml") and not name.startswith(".")


def _refused(
    path: str, label: str, what: str, line: int | None = None, column: int | None = None
) -> ConfigFile:
    return ConfigFile(path, label, None, Problem(where=label, what=what, line=line, column=column))


def _reason(error: OSError | ValueError) -> str:
    return (
        (error.strerror or "error").lower() if isinstance(error, OSError) else "the path has a NUL character"
    )


def _read(path: str, label: str, owner: int | None = None) -> ConfigFile | None:
    """One file; None when it is not there. With `owner`, it must belong to that user or to root."""
    try:
        # O_NONBLOCK: a FIFO in this place must not hold up the start.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            return _refused(path, label, "is a symbolic link; put the file itself here")
        return _refused(path, label, f"cannot be read: {_reason(error)}")
    try:
        fault = _file_fault(os.fstat(fd), owner)
        if fault is not None:
            return _refused(path, label, fault)
        return _decode(path, label, _read_bounded(fd))
    except OSError as error:
        return _refused(path, label, f"cannot be read: {_reason(error)}")
    finally:
        os.close(fd)


def _file_fault(facts: os.stat_result, owner: int | None) -> str | None:
    if stat.S_ISDIR(facts.st_mode):
        return "is a directory"
    if not stat.S_ISREG(facts.st_mode):
        return "is not a regular file"
    # The configuration names programs that the daemon runs.
    if facts.st_mode & stat.S_IWOTH:
        return "can be changed by every user; remove that permission (chmod o-w)"
    if owner is not None and facts.st_uid not in {0, owner}:
        return f"belongs to user {facts.st_uid}, not to user {owner} or root"
    if facts.st_size > MAX_FILE_SIZE:
        return f"is larger than {MAX_FILE_SIZE // 1024} KiB"
    return None


def _read_bounded(fd: int) -> bytes:
    parts, size = [], 0
    while size <= MAX_FILE_SIZE:
        part = os.read(fd, MAX_FILE_SIZE + 1 - size)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _decode(path: str, label: str, content: bytes) -> ConfigFile:
    if len(content) > MAX_FILE_SIZE:
        return _refused(path, label, f"is larger than {MAX_FILE_SIZE // 1024} KiB")
    if not content:
        what = "is empty; an interrupted write leaves such a file. Remove it or write it anew"
        return _refused(path, label, what)
    if content.startswith(_BOM):
        return _refused(path, label, "begins with a byte order mark; save it as plain UTF-8", 1, 1)
    nul = content.find(b"\0")
    if nul >= 0:
        return _refused(path, label, "has a NUL byte; this is not a text file", *_position(content, nul))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte 0x{content[error.start]:02x}"
        return _refused(path, label, what, *_position(content, error.start))
    return ConfigFile(path, label, text)


def _position(content: bytes, offset: int) -> tuple[int, int]:
    line = content.count(b"\n", 0, offset) + 1
    return line, offset - content.rfind(b"\n", 0, offset)


def _evaluate(
    files: Sequence[ConfigFile],
    environ: Mapping[str, str],
    flags: Sequence[Layer],
    base: Sequence[Layer],
) -> LoadedConfig:
    faults: list[Problem] = []
    layers: list[Layer] = [*base]
    texts: dict[str, str] = {}
    for file in files:
        if file.problem is not None:
            faults.append(file.problem)
        if file.text is None:
            continue
        document = read_toml(file.text)
        if isinstance(document, TomlMistake):
            faults.append(_mistake(file.label, document))
        else:
            layers.append(Layer(file.label, document))
            texts[file.label] = file.text
    layers += environment_layers(environ, _agent_ids(layers))
    layers += flags
    outcome = parse(layers)
    sources = tuple(layer.origin for layer in layers)
    if isinstance(outcome, Parsed) and not faults:
        return LoadedConfig(
            config=outcome.config,
            provenance=outcome.provenance,
            sources=sources,
            files=tuple(files),
            problems=(),
        )
    found = [] if isinstance(outcome, Parsed) else outcome
    # What an unreadable file was to say is unknown, so nothing counts as missing.
    kept = [problem for problem in found if not (faults and problem.missing)]
    problems = _in_file_order((*faults, *_with_lines(kept, texts)), files)
    return LoadedConfig(config=None, provenance={}, sources=sources, files=tuple(files), problems=problems)


def _mistake(label: str, mistake: TomlMistake) -> Problem:
    what = f"is not valid TOML: {mistake.what[:1].lower()}{mistake.what[1:]}"
    return Problem(where=label, what=what, line=mistake.line, column=mistake.column)


def _agent_ids(layers: Sequence[Layer]) -> list[str]:
    agents: list[Any] = [layer.values.get("agents") for layer in layers]
    return [agent for table in agents if isinstance(table, dict) for agent in table]


def _with_lines(problems: Sequence[Problem], texts: Mapping[str, str]) -> Iterator[Problem]:
    indexes: dict[str, Lines] = {}
    for problem in problems:
        text = texts.get(problem.where)
        path = read_key(problem.path) if text is not None and problem.path else None
        if text is None or path is None:
            yield problem
            continue
        if problem.where not in indexes:
            indexes[problem.where] = Lines(text)
        yield replace(problem, line=indexes[problem.where].of(path))


def _in_file_order(problems: Sequence[Problem], files: Sequence[ConfigFile]) -> tuple[Problem, ...]:
    place = {file.label: index for index, file in enumerate(files)}
    return tuple(sorted(problems, key=lambda problem: place.get(problem.where, len(files))))
