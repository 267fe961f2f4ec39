"""`config init` and `config set`: the two verbs that write the configuration."""

import contextlib
import fcntl
import grp
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

from ambientd.config.fields import Shape, section_at
from ambientd.config.parse import Layer, parse
from ambientd.config.problems import Problem, show_path
from ambientd.config.template import default_file
from ambientd.config.toml import TomlMistake, read_key, read_toml
from ambientd.config.values import from_text
from ambientd.host.config_files import ConfigFile, load, read_files
from ambientd.main.config_print import complain, print_json, print_problems, problems_json
from ambientd.wire import exits, places

# The system user's group, which the packages make: the daemon reads the file that root writes.
GROUP = "ambient"
Path = tuple[str, ...]


def init(options: Any) -> int:
    """Writes the default file; never over another one without `--force`."""
    target = options.file or options.config or places.config_file(os.environ, os.geteuid())
    if target == "-":
        sys.stdout.write(default_file())
        return exits.DONE
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), mode=0o755, exist_ok=True)
        if options.force:
            _replace(target, default_file())
        else:
            _create(target, default_file())
    except FileExistsError:
        complain(f"Error: {target} is already there. --force replaces it.")
        return exits.WRONG_STATE
    except (OSError, ValueError) as error:
        return _not_written(target, error)
    if options.json:
        print_json("config-init", path=target)
    else:
        print(f"Wrote {target}; every setting in it is explained and commented out.")
    return exits.DONE


def put(options: Any) -> int:
    """Changes one setting in the main file. The result is checked as a whole before it replaces the file."""
    path = read_key(options.key)
    if path is None:
        complain(f"Error: {options.key!r} is not a dotted key such as dispatcher.interval.")
        return exits.USAGE
    problems = _check_alone(path, options.value)
    if problems:
        return _refuse(options, problems)
    main = read_files(os.environ, os.geteuid(), config=options.config)[0]
    if main.problem is not None and os.path.lexists(main.path):
        return _refuse(options, [main.problem])
    text = _edited(main.text or "", path, _toml_value(path, options.value))
    if text is None:
        complain(
            f"Error: {main.label} cannot be edited safely there. Change it by hand; nothing was written."
        )
        return exits.FAILED
    loaded = load(os.environ, os.geteuid(), config=options.config, main_text=text)
    if loaded.problems:
        return _refuse(options, loaded.problems)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(main.path)), mode=0o755, exist_ok=True)
        _replace(main.path, text, expected=main.text)
    except (OSError, ValueError) as error:
        return _not_written(main.path, error)
    _say_done(options, main, show_path(path), loaded.provenance)
    return exits.DONE


def _say_done(options: Any, main: ConfigFile, key: str, provenance: Any) -> None:
    origin = provenance.get(key, main.label)
    if options.json:
        print_json(
            "config-set", path=main.path, key=key, overriddenBy=None if origin == main.label else origin
        )
        return
    print(f"Set {key} in {main.label}.")
    if origin != main.label:
        complain(f"Note: {origin} sets {key} too, and wins.")


def _refuse(options: Any, problems: Any) -> int:
    if options.json:
        print_json("config-set", path=None, key=options.key, problems=problems_json(problems))
    print_problems(problems)
    complain("Nothing was changed.")
    return exits.CONFIG


def _check_alone(path: Path, value: str) -> list[Problem]:
    """Problems of this setting by itself, with the suggestions that the whole check would give."""
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    outcome = parse([Layer("config set", nested, textual=True)])
    return [problem for problem in outcome if not problem.missing] if isinstance(outcome, list) else []


def _toml_value(path: Path, value: str) -> Any:
    """The value as it is to stand in the file, in the user's own spelling where that is TOML."""
    section = section_at(path)
    depth = section.name.count(".") + (2 if section.keyed else 1)
    if len(path) == depth + 1:
        return from_text(section.settings[path[depth]], value)
    if len(path) <= depth or section.settings[path[depth]].shape is Shape.PRICES:
        document = read_toml(f"value = {value}\n")
        return value if isinstance(document, TomlMistake) else document["value"]
    return value


def _edited(text: str, path: Path, value: Any) -> str | None:
    """`text` with the one setting changed, or None when no way of editing changes that and nothing else."""
    before = read_toml(text)
    if isinstance(before, TomlMistake):
        return None
    wanted = _with_value(before, path, value)
    for candidate in _candidates(text, path, value):
        if candidate is not None and read_toml(candidate) == wanted:
            return candidate
    return None


def _with_value(document: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    inner = value
    if len(path) > 1:
        table = document.get(path[0])
        inner = _with_value(table if isinstance(table, dict) else {}, path[1:], value)
    return {**document, path[0]: inner}


def _candidates(text: str, path: Path, value: Any) -> Iterator[str | None]:
    # Imported here: it costs 20 ms, and the daemon never edits its configuration.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    with contextlib.suppress(TOMLKitError, ValueError):
        yield _in_place_of_comment(text, path, tomlkit.item(value).as_string())
    with contextlib.suppress(TOMLKitError, ValueError, AttributeError, TypeError):
        document = tomlkit.parse(text)
        table: Any = document
        for depth, part in enumerate(path[:-1]):
            if part not in table:
                table[part] = tomlkit.table(is_super_table=depth < len(path) - 2)
            table = table[part]
        table[path[-1]] = value
        yield tomlkit.dumps(document)


def _in_place_of_comment(text: str, path: Path, value: str) -> str | None:
    """The setting put where the commented default stands, below its (commented) header."""
    header = f"[{show_path(path[:-1])}]"
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if line.strip() in {header, "#" + header}]
    if not starts or len(path) < 2:
        return None
    start = starts[0]
    assignment = f"{show_path(path[-1:])} = {value}"
    lines[start] = header
    for number in range(start + 1, len(lines)):
        line = lines[number].lstrip("#")
        if line.startswith("["):
            break
        if lines[number].startswith("#") and line.startswith(f"{path[-1]} ="):
            lines[number] = assignment
            return "\n".join(lines)
    lines.insert(start + 1, assignment)
    return "\n".join(lines)


def _not_written(target: str, error: OSError | ValueError) -> int:
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    complain(f"Error: {target} cannot be written: {reason}.")
    return exits.NOT_PERMITTED if isinstance(error, PermissionError) else exits.FAILED


def _fresh_owner() -> tuple[int, int]:
    """Mode and group of a new file: private, since agents' variables may stand in it; root's is also for
    the group of the system user, when that exists. -1 keeps the group."""
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            return 0o640, grp.getgrnam(GROUP).gr_gid
    return 0o600, -1


def _create(target: str, text: str) -> None:
    """A new file; raises FileExistsError when anything has that name."""
    mode, group = _fresh_owner()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _fill(fd, text, mode, -1, group)
    except BaseException:
        os.unlink(target)
        raise


def _fill(fd: int, text: str, mode: int, owner: int, group: int) -> None:
    with os.fdopen(fd, "wb") as file:
        if owner >= 0 or group >= 0:
            os.fchown(fd, owner, group)
        os.fchmod(fd, mode)
        file.write(text.encode())
        file.flush()
        os.fsync(fd)


def _replace(target: str, text: str, *, expected: str | None = None) -> None:
    """Puts `text` in the place of `target` in one step, with its mode and owner.

    Raises ValueError when another process changes it meanwhile, or when it is not a regular file.
    """
    folder = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fresh = target + ".new"
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mode, owner, group = _owner_of(target)
        if expected is not None:
            _expect(target, expected)
        _remove(fresh)  # left by a crash: we hold the lock
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            _fill(fd, text, mode, owner, group)
            os.rename(fresh, target)
        except BaseException:
            _remove(fresh)
            raise
        os.fsync(folder)
    except BlockingIOError:
        raise ValueError("another process is changing it") from None
    finally:
        os.close(folder)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _owner_of(target: str) -> tuple[int, int, int]:
    try:
        facts = os.lstat(target)
    except FileNotFoundError:
        mode, group = _fresh_owner()
        return mode, -1, group
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("it is not a regular file")
    return stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid


def _expect(target: str, expected: str) -> None:
    with open(target, "rb") as file:
        if file.read() != expected.encode():
            raise ValueError("another process is changing it")
