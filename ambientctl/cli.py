"""The verbs behind click. Each verb's module is loaded when it is used, so that no verb pays for another."""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from ambientctl.status import Options, parse_seconds, show_version
from ambientctl.trouble import CommandError
from ambientd.wire import exits

PROGRAM = "ambientctl"
OUTPUTS = ("table", "wide", "json", "jsonl", "tsv")

# verb -> (module, what the list of verbs says)
VERBS = {
    "status": ("status", "This node on one screen."),
    "agents": ("agents", "The agents and what they do."),
    "spawn": ("spawn", "Start a session."),
    "sessions": ("sessions", "The ledger of sessions."),
    "kill": ("kill", "End a session, and wait for the proof."),
    "model": ("model", "Prefer a model for an agent."),
    "feed": ("handover", "The activity feed: tail, validate, drift."),
    "config": ("handover", "The configuration: show, init, set, path."),
    "check-config": ("handover", "Every problem of the configuration."),
    "migrate": ("migrate", "The ledger's schema."),
    "usage": ("usage", "Runs, tokens, time and cost of sessions."),
    "performance": ("usage", "Which model does well."),
    "sync": ("sync", "One round with peers and control plane now."),
    "join": ("join", "Enrol this node at a control plane."),
    "leave": ("join", "Leave the control plane."),
    "tasks": ("fleet", "The control plane's tasks."),
    "nodes": ("fleet", "The control plane's nodes."),
    "node": ("fleet", "One node, as the control plane knows it."),
    "peers": ("peers", "Nodes on the LAN, and whom this one trusts."),
    "policy": ("policy", "Egress policies: list, check, import, export."),
    "delta-v": ("delta_v", "The efficiency metric Δv, its inputs and parameters."),
    "alerts": ("alerts", "What a person should look at; the rules behind it."),
    "retention": ("retention", "Removes what is older than it is kept for."),
    "ledger": ("ledger", "Ingest, import, verify, new prices."),
    "audit": ("audit", "What was ordered and done; whether it was changed."),
    "identity": ("identity", "The node's own key."),
    "backup": ("backup", "Database and configuration into one file."),
    "restore": ("backup", "A backup in place of the database."),
    "doctor": ("handover", "Everything a node needs, checked, with remedies."),
    "logs": ("logs", "The daemon's own log, its newest lines."),
    "log-level": ("logs", "How much the daemon logs, for a time."),
    "reload": ("reload", "Reads the configuration again."),
    "lease": ("lease", "What single sessions may let out, and how much."),
    "clock": ("clock", "What the node knows of the time."),
    "completion": ("completion", "The script that completes words in a shell."),
    "version": ("version", "This program's version."),
}


def _set_option(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Remembers a global option wherever it stood: before or after the verb."""
    if not value or context.resilient_parsing:
        return value
    options = context.find_object(Options)
    if options is None:
        raise AssertionError("the root context carries the options")
    if parameter.name == "timeout":
        options.timeout = parse_seconds(value)
        if options.timeout is None:
            raise click.BadParameter(f"{value!r} is no time; say 10, 2.5s or 1m (up to a day)")
    elif parameter.name == "json":
        options.output = "json"
    else:
        setattr(options, str(parameter.name), value)
    return value


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.exit(show_version(context.find_object(Options) or Options()))


def global_options() -> list[click.Parameter]:
    """Fresh copies of the options that every verb takes, before or after its name."""
    outputs, colors = click.Choice(OUTPUTS), click.Choice(("auto", "always", "never"))
    return [
        _global(["--socket"], metavar="PATH", help="The daemon's socket."),
        _global(["-o", "--output"], type=outputs, metavar="FORMAT", help="table, wide, json, jsonl or tsv."),
        _global(["--json"], is_flag=True, help="The same as -o json."),
        _global(["--timeout"], metavar="TIME", help="How long to wait for an answer.  [10s]"),
        _global(["--color"], type=colors, metavar="WHEN", help="auto, always or never."),
        _global(["--version"], is_flag=True, callback=_print_version, help="Print this program's version."),
    ]


def help_option() -> click.Option:
    """`-h` and `--help`."""
    return click.Option(
        ["-h", "--help"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_help,
        help="Show this and exit.",
    )


def _show_help(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(context.get_help(), color=context.color)
        context.exit()


def _global(names: list[str], **attributes: Any) -> click.Option:
    return click.Option(names, **{"expose_value": False, "callback": _set_option, **attributes})


class _Helped(click.Command):
    """A verb with an example, its own options first and the global ones after them."""

    def __init__(self, *arguments: Any, example: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.example = example
        self._help = help_option()
        self._global = global_options()
        self.params = [*self.params, *self._global]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Click's own goes through gettext and looks for translations on the disk at every start."""
        return self._help

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Two lists."""
        own = [item for item in self.get_params(ctx) if item not in self._global]
        for title, parameters in (("Options", own), ("Global options", self._global)):
            records = [record for record in (item.get_help_record(ctx) for item in parameters) if record]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, line by line as written."""
        write_example(formatter, self.example)


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """The last section of every help page."""
    with formatter.section("Example"):
        for line in example.splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Verb(_Helped):
    """One command."""


class Verbs(_Helped, click.Group):
    """A command with commands of its own; mistyped names are answered with the nearest ones."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options as of every verb, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command meant, or a usage error that names its neighbours."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        known = self.list_commands(ctx)
        near = get_close_matches(name, known, 3, 0.6)
        what = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        raise click.UsageError(f"{name!r} is not a command of {ctx.command_path}. {what}", ctx)


class Root(Verbs):
    """`ambientctl` itself: knows its verbs by name and loads the one that is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order people need them."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads the verb's module."""
        if cmd_name not in VERBS:
            return None
        module = import_module(f"ambientctl.commands.{VERBS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        return command if isinstance(command, click.Command) else None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


root = Root(
    PROGRAM,
    help="Speaks to the node daemon of this machine.",
    example="ambientctl status\nambientctl spawn reviewer 'Look at the last commit' --follow",
    params=[],
)


def run(argv: list[str]) -> int:
    """Runs one command through click; returns its exit code. Raises KeyboardInterrupt and BrokenPipeError."""
    if "_AMBIENTCTL_COMPLETE" in os.environ:
        root.main(argv, prog_name=PROGRAM, obj=Options())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with root.make_context(PROGRAM, list(argv) or ["--help"], obj=Options()) as context:
            code = root.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CommandError as failure:
        return failure.show()
    return code if isinstance(code, int) else exits.DONE
