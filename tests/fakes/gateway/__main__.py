"""The fake gateway as a process: `python -m tests.fakes.gateway --help`.

First line of stdout: {"url", "port", "token"}. Each line of stdin is a command {"do": NAME, …arguments};
each gets one line of answer. Commands are the names in COMMANDS; the end of stdin ends the process.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import trio

from tests.fakes.gateway.auth import recorded_failure
from tests.fakes.gateway.methods import Fail
from tests.fakes.gateway.server import TOKEN, FakeGateway

Json = dict[str, Any]


def counts(gateway: FakeGateway) -> Json:
    """What was counted."""
    return {
        "calls": dict(gateway.calls),
        "connects": gateway.connects,
        "handshakes": gateway.handshakes,
        "open_now": gateway.open_now,
        "most_open": gateway.most_open,
        "largest_limit": gateway.largest_limit,
    }


def _set(gateway: FakeGateway, name: str, value: Any) -> None:
    if name not in {"starting", "draining", "mute", "hush", "reorder", "scopes", "auto_run", "boot_id"}:
        raise KeyError(name)
    setattr(gateway, name, value)


COMMANDS: Mapping[str, Callable[..., Any]] = {
    "counts": counts,
    "requests": lambda g: g.requests,
    "set": _set,
    "create": lambda g, **kw: asdict(g.world.create_session(**kw)),
    "run": lambda g, session, **kw: g.world.start_run(session, **kw),
    "finish": lambda g, session: g.world.finish(session),
    "fail": lambda g, session, **kw: g.world.fail(session, **kw),
    "lose_run": lambda g, session: g.world.lose_run(session),
    "time_out": lambda g, session: g.world.time_out(session),
    "kill": lambda g, session, **kw: g.world.kill(session, **kw),
    "session": lambda g, session: asdict(g.world.session(session)),
    "agent": lambda g, agent: asdict(g.world.agents[agent]),
    "populate": lambda g, count: g.world.populate(count),
    "refuse": lambda g, case, times=None: g.refuse(recorded_failure(case) if case else None, times=times),
    "script": lambda g, method, **kw: g.script(method, Fail(**kw)),
    "always": lambda g, method, **kw: g.always(method, Fail(**kw) if kw else None),
    "approve": lambda g: g.approve(),
    "drop": lambda g, code=1012, reason="": g.drop(code, reason),
    "restart": lambda g: g.restart(),
    "shutdown": lambda g: g.announce_shutdown(),
    "skip_seq": lambda g: g.skip_seq(),
    "emit": lambda g, event, payload=None: g.emit(event, payload),
    "stop": lambda g: g.stop(),
    "start": lambda g: g.start(),
}


async def _obey(gateway: FakeGateway, line: str) -> Json:
    command: Json = json.loads(line)
    try:
        result = COMMANDS[command.pop("do")](gateway, **command)
        if result is not None and hasattr(result, "__await__"):
            result = await result
    except (KeyError, TypeError, ValueError) as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True, "result": result}


def _say(value: Json) -> None:
    print(json.dumps(value), flush=True)


async def _main(options: argparse.Namespace) -> None:
    gateway = FakeGateway(
        protocol=options.protocol,
        agents=[name for name in options.agents.split(",") if name],
        token=options.token,
        auto_run=options.auto_run,
        lan=options.lan,
        now_ms=lambda: int(time.time() * 1000),
    )
    async with gateway.listening(options.port):
        gateway.world.populate(options.sessions)
        _say({"url": gateway.url, "port": gateway.port, "token": gateway.token})
        async with trio.open_nursery() as nursery:
            while True:
                line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
                if not line:
                    nursery.cancel_scope.cancel()
                    return
                _say(await _obey(gateway, line))


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake OpenClaw Gateway on loopback.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--protocol", type=int, default=4, choices=(3, 4))
    parser.add_argument("--agents", default="main,tony", help="ids, separated by commas")
    parser.add_argument("--token", default=TOKEN)
    parser.add_argument("--sessions", type=int, default=0, help="old sessions to begin with")
    parser.add_argument("--auto-run", type=float, default=None, help="seconds until a run ends by itself")
    parser.add_argument("--lan", action="store_true", help="new devices must be approved")
    trio.run(_main, parser.parse_args())


if __name__ == "__main__":
    main()
