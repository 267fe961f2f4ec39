"""The configuration that is in force, and what a reload may change of it."""

import dataclasses

from ambientd.config.schema import Config

# Read anew at each use; everything else is built in at the start.
RELOADABLE = ("agents", "sessions", "spool", "log", "pricing", "retention", "connectivity", "control_plane")


class LiveConfig:
    """Holds the effective configuration; parts that can be reloaded are asked for through it."""

    def __init__(self, config: Config) -> None:
        self.current = config

    def replace(self, new: Config) -> tuple[list[str], list[str]]:
        """Takes over what can be reloaded. Returns the sections that were applied and those that differ
        but need a restart."""
        names = [field.name for field in dataclasses.fields(Config)]
        changed = [name for name in names if getattr(new, name) != getattr(self.current, name)]
        applied = [name for name in changed if name in RELOADABLE]
        self.current = dataclasses.replace(self.current, **{name: getattr(new, name) for name in applied})
        return applied, [name for name in changed if name not in RELOADABLE]
