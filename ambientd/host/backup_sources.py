"""What goes into a backup beside the database: the configuration's files, and the identity key."""

import os
from collections.abc import Sequence
from pathlib import Path

from ambientd.core.backup import CONFIG_FOLDER, IDENTITY, is_member_name
from ambientd.host.config_files import FOLDER, ConfigFile
from ambientd.ports.backup import ExtraFile

MAIN = CONFIG_FOLDER + "ambient.toml"
_KEY_MAX_BYTES = 4096


def configuration_members(files: Sequence[ConfigFile]) -> list[ExtraFile]:
    """The files that were read, the main one under its usual name; impossible names are left out."""
    found = []
    for place, file in enumerate(files):
        name = MAIN if place == 0 else f"{CONFIG_FOLDER}{FOLDER}/{os.path.basename(file.path)}"
        if file.text is not None and is_member_name(name):
            found.append(ExtraFile(name, file.text.encode("utf-8", "surrogateescape")))
    return found


def identity_key(state_dir: Path) -> bytes | None:
    """The node's key, None when there is none yet. Raises OSError when it cannot be read."""
    try:
        with (state_dir / IDENTITY).open("rb") as file:
            return file.read(_KEY_MAX_BYTES)
    except FileNotFoundError:
        return None
