"""A fake OpenClaw Gateway: a real websocket, the shapes of the recordings, a world that moves when told.

In a test under virtual time (no sockets, trio's clock may jump):

    async with FakeGateway(agents=["main", "tony"]).running() as gateway:
        dialer = WebSocketDialer(gateway.address, open_stream=gateway.open_stream)
        ...
        session = gateway.world.create_session("tony", message="hello")    # running until told otherwise
        gateway.world.finish(session.session_id)                           # or fail(…), kill(…), time_out(…)

On loopback (real sockets): `async with FakeGateway().listening() as gateway:` then `gateway.url`.
As a process: `python -m tests.fakes.gateway --port 0`, or `FakeGatewayProcess` (process.py); one JSON line
with `url` and `token` comes first, then each line of stdin is a command.

What it counts: `calls` (Counter of methods), `requests` (list of (method, params)), `connects`, `open_now`,
`most_open`, `handshakes`. `largest_limit` is the greatest `limit` of a `sessions.list`.

What it does on demand:
    gateway.script("sessions.list", Fail("UNAVAILABLE", …), Silence(), None)  next answers; None: as usual
    gateway.always("health", Fail(…)) / gateway.always("health", None)        every answer until changed
    gateway.refuse(recorded_failure("wrong token"), times=1)                  connects fail as recorded
    gateway.starting = True      answers connects as while it starts (UNAVAILABLE, 1013)
    gateway.draining = True      every call is refused as while it drains; events go on
    gateway.scopes = []          what hello grants, whatever was asked for
    gateway.lan = True           new devices must be approved: gateway.approve()
    gateway.mute = True          accepts and says nothing; gateway.hush = True: no ticks
    gateway.reorder = True       answers overtake each other
    gateway.extra_fields         unknown fields everywhere, on by default
    gateway.skip_seq()           the next event's number leaves a gap
    gateway.drop(1012, "service restart"), gateway.drop(1006)                 ends every connection
    gateway.announce_shutdown(), gateway.restart(), gateway.stop(), gateway.start()

Runs go by themselves when `auto_run` is a number of seconds: models whose name holds `slow` or `hang` never
end, `400` and `fail` fail, all others are done after that time.
"""

from tests.fakes.gateway.auth import Refusal, recorded_failure
from tests.fakes.gateway.methods import Answer, Close, Delay, Fail, Silence
from tests.fakes.gateway.server import FakeGateway
from tests.fakes.gateway.world import Session, World

__all__ = [
    "Answer",
    "Close",
    "Delay",
    "Fail",
    "FakeGateway",
    "Refusal",
    "Session",
    "Silence",
    "World",
    "recorded_failure",
]
