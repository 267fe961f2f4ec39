"""`version`, for the forms that the short way leaves to click."""

import click

from ambientctl.cli import Verb
from ambientctl.status import Options, show_version


@click.command(cls=Verb, example="ambientctl version --json")
@click.pass_obj
def version(options: Options) -> int:
    """Print this program's version. Asks no daemon."""
    return show_version(options)
