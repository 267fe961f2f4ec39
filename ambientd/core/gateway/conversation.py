"""One connection to a gateway as a state machine: what arrived means what, and what may be asked.

States: OPENING (no challenge yet) -> SIGNING (challenged) -> GREETING (connect sent) -> OPEN <-> DRAINING.
A refused connect ends it; so does whatever raises RemoteProtocolError.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from ambientd.core.gateway.events import CHALLENGE, SHUTDOWN, is_wanted
from ambientd.core.gateway.frames import (
    Event,
    Failure,
    GatewayFault,
    RemoteProtocolError,
    Response,
    Unknown,
    clean,
    decode_frame,
    decode_payload,
    encode_request,
)
from ambientd.core.gateway.hello import DEFAULT_TICK, Challenge, Hello, parse_challenge, parse_hello

# More calls at once than the whole node ever makes; it bounds the table when answers stay away.
MOST_PENDING = 256
# A gateway that says nothing for two of its own ticks is gone.
SILENT_TICKS = 2
# A row with all about it has 5 KB. A larger event is not kept for listeners; they are told to list again.
LARGEST_EVENT = 256 * 1024
DRAINING_REASON = "gateway-restarting"


class State(Enum):
    """Where the connection is."""

    OPENING = "opening"
    SIGNING = "signing"
    GREETING = "greeting"
    OPEN = "open"
    DRAINING = "draining"
    REFUSED = "refused"


class Challenged(msgspec.Struct, frozen=True):
    """Sign and send `connect`."""

    challenge: Challenge


class Greeted(msgspec.Struct, frozen=True):
    """The handshake stands."""

    hello: Hello


class ConnectRefused(msgspec.Struct, frozen=True):
    """The gateway does not let us in; it closes next."""

    fault: GatewayFault


class Answered(msgspec.Struct, frozen=True):
    """The first answer to a request of ours: a payload, or the gateway's refusal."""

    id: str
    method: str
    payload: Any = None
    fault: GatewayFault | None = None
    took: float = 0.0  # seconds


class EventCame(msgspec.Struct, frozen=True):
    """An event that listeners want."""

    name: str
    payload: Any


class EventsSkipped(msgspec.Struct, frozen=True):
    """Numbers are missing: events were lost on the way."""


class DrainingBegan(msgspec.Struct, frozen=True):
    """Connected, but nothing is answered until the gateway has restarted."""

    reason: str


class DrainingEnded(msgspec.Struct, frozen=True):
    """It answers again without having restarted."""


Happened = (
    Challenged
    | Greeted
    | ConnectRefused
    | Answered
    | EventCame
    | EventsSkipped
    | DrainingBegan
    | DrainingEnded
)


class TooManyPendingError(Exception):
    """MOST_PENDING requests wait for their answers already."""


class TooLargeError(Exception):
    """The request is larger than the gateway takes."""


class Asked(msgspec.Struct, frozen=True):
    """A request that was entered into the table and is to be sent as `text`."""

    id: str
    text: str


class _Pending(msgspec.Struct, frozen=True):
    method: str
    since: float
    deadline: float


class Conversation:
    """One connection. Not for use after RemoteProtocolError. All times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.state = State.OPENING
        self.hello: Hello | None = None
        self._heard = now
        self._seq = 0
        self._asked = 0
        self._pending: dict[str, _Pending] = {}

    @property
    def silent_at(self) -> float:
        """When the gateway has been silent for too long, unless it is heard before."""
        tick = self.hello.tick if self.hello is not None else DEFAULT_TICK
        return self._heard + SILENT_TICKS * tick

    @property
    def pending(self) -> int:
        """Requests that wait for an answer."""
        return len(self._pending)

    def receive(self, data: str | bytes, now: float) -> tuple[Happened, ...]:
        """Takes one frame. Raises RemoteProtocolError."""
        self._heard = now
        frame = decode_frame(data)
        match frame:
            case Response() | Failure():
                return self._answer(frame, now)
            case Event():
                return self._event(frame)
            case Unknown():
                return ()

    def ask(self, method: str, params: Mapping[str, Any], now: float, timeout: float) -> Asked:
        """A request. Raises TooManyPendingError and TooLargeError; the state must be OPEN or DRAINING,
        or SIGNING for `connect`."""
        if method == "connect":
            self._need(State.SIGNING)
        else:
            self._need(State.OPEN, State.DRAINING)
        if len(self._pending) >= MOST_PENDING:
            self._drop_late(now)
        if len(self._pending) >= MOST_PENDING:
            raise TooManyPendingError
        self._asked += 1
        request = f"a{self._asked}"
        text = encode_request(request, method, params)
        if self.hello is not None and len(text) > self.hello.max_payload:
            raise TooLargeError
        self._pending[request] = _Pending(method, now, now + timeout)
        if method == "connect":
            self.state = State.GREETING
        return Asked(request, text)

    def forget(self, request: str) -> None:
        """Nobody waits for this answer any more; it is dropped when it comes."""
        self._pending.pop(request, None)

    def _drop_late(self, now: float) -> None:
        self._pending = {name: row for name, row in self._pending.items() if row.deadline > now}

    def _need(self, *states: State) -> None:
        if self.state not in states:
            raise RuntimeError(f"not in state {self.state.value}")

    def _answer(self, frame: Response | Failure, now: float) -> tuple[Happened, ...]:
        """A second answer to one request (method `agent`), or one to nobody, is dropped."""
        pending = self._pending.pop(frame.id, None)
        if pending is None:
            return ()
        if pending.method == "connect":
            return (self._greet(frame),)
        took = now - pending.since
        if isinstance(frame, Response):
            answer = Answered(frame.id, pending.method, decode_payload(frame.payload), took=took)
            return (answer, *self._drain(None))
        return (Answered(frame.id, pending.method, fault=frame.fault, took=took), *self._drain(frame.fault))

    def _greet(self, frame: Response | Failure) -> Greeted | ConnectRefused:
        if isinstance(frame, Failure):
            self.state = State.REFUSED
            return ConnectRefused(frame.fault)
        self.hello = parse_hello(decode_payload(frame.payload))
        self.state = State.OPEN
        return Greeted(self.hello)

    def _drain(self, fault: GatewayFault | None) -> tuple[Happened, ...]:
        refused = fault is not None and fault.code == "UNAVAILABLE" and fault.reason == DRAINING_REASON
        if refused and self.state is State.OPEN:
            self.state = State.DRAINING
            return (DrainingBegan("the gateway finishes its runs before it restarts"),)
        if fault is None and self.state is State.DRAINING:
            self.state = State.OPEN
            return (DrainingEnded(),)
        return ()

    def _event(self, frame: Event) -> tuple[Happened, ...]:
        if frame.name == CHALLENGE:
            return (self._challenge(frame),)
        if self.state not in (State.OPEN, State.DRAINING):
            return ()  # nothing before hello is for us
        happened: list[Happened] = []
        if frame.seq is not None:
            if frame.seq <= self._seq:
                return ()  # again, or after a gap that was told: the list is newer
            if frame.seq != self._seq + 1:
                happened.append(EventsSkipped())
            self._seq = frame.seq
        if not is_wanted(frame.name, frame.payload):
            return tuple(happened)
        if memoryview(frame.payload).nbytes > LARGEST_EVENT:
            happened.append(EventsSkipped())
        else:
            payload = decode_payload(frame.payload)
            happened.append(EventCame(frame.name, payload))
            if frame.name == SHUTDOWN and self.state is State.OPEN:
                self.state = State.DRAINING
                reason = payload.get("reason") if isinstance(payload, dict) else None
                happened.append(DrainingBegan(clean(reason, 100) or "the gateway shuts down"))
        return tuple(happened)

    def _challenge(self, frame: Event) -> Challenged:
        if self.state is not State.OPENING:
            raise RemoteProtocolError("a second challenge")
        self.state = State.SIGNING
        return Challenged(parse_challenge(decode_payload(frame.payload)))
