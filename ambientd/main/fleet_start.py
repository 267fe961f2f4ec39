"""What `control-plane` and its `init` share: settings, places, secrets, and whether they will do."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ambientd.app.control_plane import DatabasePlace
from ambientd.config.parse import Layer
from ambientd.config.schema import Config, Mode
from ambientd.core.fleet.secrets import Judged, judge_secrets
from ambientd.host.config_files import LoadedConfig, load
from ambientd.host.fleet_secrets import find_fleet_secrets
from ambientd.host.issuer_keys import IssuerKeys, find_issuer_keys
from ambientd.host.secrets import SecretError, find_secret
from ambientd.wire import places

DATABASE_PASSWORD = "DATABASE_PASSWORD"  # noqa: S105 - a name, no secret
ENVIRONMENT = "ENVIRONMENT"


class Given(NamedTuple):
    """What the command line says of the place and the settings."""

    config: str | None
    state_dir: str | None
    listen: str | None
    database: str | None
    log_level: str | None

    def layers(self) -> tuple[Layer, ...]:
        """Flags that stand for settings, as the last layer."""
        server = {"listen": self.listen, "database": self.database}
        values: dict[str, dict[str, object]] = {
            "server": {name: value for name, value in server.items() if value is not None}
        }
        if self.log_level is not None:
            values["log"] = {"level": self.log_level}
        return (Layer("command line", {name: table for name, table in values.items() if table}),)


class Found(NamedTuple):
    """Secrets as they were found. `problems` keep the control plane from starting, all of them."""

    judged: Judged
    issuers: IssuerKeys
    password: str | None
    problems: tuple[str, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of both verbs."""
    parser.add_argument("--config", metavar="FILE", help="main configuration file")
    parser.add_argument("--state-dir", metavar="DIR", help="where secrets and the embedded database lie")
    parser.add_argument(
        "--database", metavar="DB", help="over server.database: postgresql://…, without a password"
    )


def given_of(options: argparse.Namespace) -> Given:
    """The options that `add_options` added, and those that one of the verbs has alone."""
    return Given(
        options.config,
        options.state_dir,
        getattr(options, "listen", None),
        options.database,
        getattr(options, "log_level", None),
    )


def environment_of(given: Given, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with what the command line says of places."""
    named = {places.ENV_STATE: given.state_dir} if given.state_dir else {}
    return {**environ, **named}


def load_config(given: Given, environ: Mapping[str, str]) -> LoadedConfig:
    """The effective configuration, or its problems."""
    return load(environ, os.getuid(), config=given.config, flags=given.layers())


def state_dir_of(environ: Mapping[str, str]) -> Path:
    """The control plane's state directory, absolute."""
    return Path(os.path.abspath(places.control_plane_dir(environ, os.getuid())))


def is_production(config: Config, environ: Mapping[str, str]) -> bool:
    """Either word is enough: a variable cannot make it less strict than the configuration says."""
    return config.node.mode is Mode.PRODUCTION or environ.get(ENVIRONMENT, "").strip().lower() == "production"


def find_all(config: Config, state_dir: Path, environ: Mapping[str, str]) -> Found:
    """Every secret, and everything that is wrong with them at once. Opens nothing but their files."""
    secrets, problems = find_fleet_secrets(state_dir, environ)
    judged = judge_secrets(secrets, production=is_production(config, environ))
    broken = {text.partition(":")[0] for text in problems}
    problems += [text for text in judged.problems if text.partition(" ")[0] not in broken]
    issuers, more = find_issuer_keys(state_dir, environ)
    password, also = _password(config, environ)
    return Found(judged, issuers, password, (*problems, *more, *also))


def _password(config: Config, environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """PostgreSQL's password; without one libpq has its own ways."""
    try:
        found = find_secret(
            DATABASE_PASSWORD,
            environ=environ,
            file=config.server.database_password_file,
            variables=(DATABASE_PASSWORD,),
        )
    except SecretError as error:
        return None, [f"{DATABASE_PASSWORD}: {problem}" for problem in error.problems]
    return None if found is None else found.reveal(), []


def database_of(config: Config, state_dir: Path, password: str | None) -> DatabasePlace:
    """Where the data lies."""
    if config.server.database is not None:
        return DatabasePlace(address=config.server.database, password=password)
    return DatabasePlace(file=state_dir / places.FLEET_DATABASE_NAME)


def lacks_driver(config: Config) -> str | None:
    """A sentence when PostgreSQL is wanted and its driver is not installed."""
    if config.server.database is None:
        return None
    from importlib.util import find_spec

    if find_spec("psycopg") is not None:
        return None
    return "server.database is PostgreSQL, but psycopg is not installed: the extra `control-plane`"


def all_of(problems: Sequence[str]) -> str:
    """How many there are, in words."""
    return f"{len(problems)} problems" if len(problems) > 1 else "a problem"
