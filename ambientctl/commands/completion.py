"""`completion`: what a shell has to source so that Tab knows the verbs and their options."""

import click

from ambientctl import term
from ambientctl.cli import PROGRAM, Verb, root

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Verb,
    example=(
        "ambientctl completion bash >> ~/.bashrc\n"
        "ambientctl completion zsh >> ~/.zshrc\n"
        "ambientctl completion fish > ~/.config/fish/completions/ambientctl.fish"
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes words in SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    made = found(root, {}, PROGRAM, "_AMBIENTCTL_COMPLETE")
    # `source()` would start a bash only to look at its version.
    term.put((made.source_template % made.source_vars()).encode())
