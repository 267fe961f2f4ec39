"""The link to the gateway: keeps one connection, answers calls over it, tells listeners what happens.

What a refusal, a close or a silence means is decided in `core/gateway`; here is the time it takes.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import msgspec
import trio

from ambientd.core.gateway import pacing, refusals
from ambientd.core.gateway.conversation import (
    Answered,
    Challenged,
    ConnectRefused,
    Conversation,
    DrainingBegan,
    DrainingEnded,
    EventCame,
    EventsSkipped,
    Greeted,
    Happened,
    State,
    TooLargeError,
    TooManyPendingError,
)
from ambientd.core.gateway.events import SHUTDOWN
from ambientd.core.gateway.frames import RemoteProtocolError, clean
from ambientd.core.gateway.hello import (
    NEEDED_SCOPES,
    Challenge,
    Client,
    Hello,
    build_connect,
    device_of,
    payload_to_sign,
)
from ambientd.core.gateway.refusals import Credentials, Pacing, Reaction, TokenMove
from ambientd.ports.clock import Clock
from ambientd.ports.errors import UnavailableError
from ambientd.ports.gateway import (
    EventsMissed,
    GatewayEvent,
    GatewayRefusedError,
    GatewayUnavailableError,
    LinkDown,
    LinkNews,
    LinkPhase,
    LinkState,
    LinkUp,
)
from ambientd.ports.gateway_socket import (
    CredentialsError,
    DeviceKey,
    DialError,
    GatewayCredentials,
    GatewayDialer,
    GatewaySocket,
    SocketClosedError,
)
from ambientd.services.bell import Bell
from ambientd.services.gateway_link.listener import Listener
from ambientd.services.supervise import Log

# Wrong tokens are answered up to 5 s late on purpose, and a gateway that has just started is slow.
HANDSHAKE_SEC = 15.0
# A frame of ours that the other side does not take for so long: it is gone.
SEND_SEC = 10.0
PROBE_WHILE_DRAINING_SEC = 5.0
CALL_SEC = 10.0
CLOCKS_DIFFER_SEC = 1.0
LONGEST_CALL_SEC = 600.0
_SILENT_CODE = 4000
_PROTOCOL_ERROR = 1002
_SERVICE_RESTART = 1012


class _Waiter:
    """A call that waits for its answer."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answered | None = None
        self.lost: str | None = None
        self.sent = False


class _Papers(msgspec.Struct, frozen=True):
    """What one attempt shows to the gateway. `chosen` is the device's token or the shared one."""

    key: DeviceKey
    had: Credentials
    chosen: str
    device_token: str | None


class _Line:
    """One connection: what is to be sent, who waits, and how it ended."""

    def __init__(self, socket: GatewaySocket, papers: _Papers, now: float) -> None:
        self.socket = socket
        self.papers = papers
        self.conversation = Conversation(now)
        self.greet_by = now + HANDSHAKE_SEC
        self.connect_sent = now
        self.greeted_at: float | None = None
        self.outbox: dict[str, str] = {}
        self.bell = Bell()
        self.waiters: dict[str, _Waiter] = {}
        self.scope = trio.CancelScope()
        self.reaction: Reaction | None = None
        self.farewell = (1000, "")
        self.is_probing = False

    @property
    def greeted(self) -> bool:
        """Whether hello came and was good."""
        return self.greeted_at is not None

    def ask(self, method: str, params: Mapping[str, Any], timeout: float) -> str:
        """Enters a request and queues it; its id."""
        asked = self.conversation.ask(method, params, trio.current_time(), timeout)
        self.outbox[asked.id] = asked.text
        self.bell.ring()
        return asked.id

    def forget(self, request: str) -> None:
        """Nobody waits any more; what was not sent yet is not sent."""
        self.waiters.pop(request, None)
        self.outbox.pop(request, None)
        self.conversation.forget(request)

    def end(self, reaction: Reaction, code: int = 1000, reason: str = "") -> None:
        """Ends the connection; the first cause counts."""
        if self.reaction is None:
            self.reaction, self.farewell = reaction, (code, reason)
        self.scope.cancel()

    def lose(self, reason: str) -> None:
        """Everyone who waits gets no answer."""
        for waiter in self.waiters.values():
            waiter.lost = reason
            waiter.done.set()
        self.waiters.clear()


AWAY = (LinkPhase.CONNECTING, LinkPhase.WAITING)


class GatewayLinkService:
    """Implements `ports.gateway.GatewayLink`; `run` is its loop. One connection at most."""

    def __init__(
        self,
        *,
        dialer: GatewayDialer,
        credentials: GatewayCredentials,
        client: Client,
        clock: Clock,
        jitter: Callable[[], float],
        log: Log,
        scopes: Sequence[str] = NEEDED_SCOPES,
        call_timeout: float = CALL_SEC,
    ) -> None:
        """`jitter` gives a number in [0, 1). `scopes` are asked for; read and write must be granted.

        `call_timeout` is how long a call waits that does not say it itself, in seconds.
        """
        self._dialer = dialer
        self._credentials = credentials
        self._client = client
        self._clock = clock
        self._jitter = jitter
        self._log = log
        self._scopes = tuple(scopes)
        self._call_timeout = call_timeout
        self._state = LinkState(phase=LinkPhase.CONNECTING, url=dialer.url, since=clock.now())
        self._pace = pacing.Pace()
        self._line: _Line | None = None
        self._listeners: WeakSet[Listener] = WeakSet()
        self._nudge = Bell()
        self._prefer_device = False
        self._told_down = False
        self._told_reason: str | None = None
        self._boot_id: str | None = None
        self._greeted_at: float | None = None
        self._announced = False

    @property
    def state(self) -> LinkState:
        """How it is now; never blocks."""
        return self._state

    def news(self) -> Listener:
        """What happens from now on, for one listener."""
        listener = Listener()
        if self._state.phase is LinkPhase.READY:
            listener.tell(LinkUp(self._state, restarted=False))
        self._listeners.add(listener)
        return listener

    def nudge(self) -> None:
        """Tries at once where it waits (new settings, or somebody asked)."""
        if self._state.phase in (LinkPhase.WAITING, LinkPhase.REFUSED):
            self._nudge.ring()

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        """See `ports.gateway.GatewayLink.call`. A call that was cancelled before it began is not sent."""
        await trio.lowlevel.checkpoint()
        line = self._line
        if line is None or self._state.phase is not LinkPhase.READY:
            why = self._state.reason or "there is no connection to the gateway"
            raise GatewayUnavailableError(why, sent=False)
        timeout = min(self._call_timeout if timeout is None else timeout, LONGEST_CALL_SEC)
        try:
            request = line.ask(method, params or {}, timeout)
        except TooManyPendingError:
            raise GatewayUnavailableError("too many calls wait for the gateway", sent=False) from None
        except TooLargeError:
            raise GatewayRefusedError("PAYLOAD_TOO_LARGE", "larger than the gateway takes") from None
        waiter = line.waiters[request] = _Waiter()
        try:
            with trio.move_on_after(timeout):
                await waiter.done.wait()
        finally:
            line.forget(request)
        return _result(waiter, f"no answer to {method} within {timeout:g} s")

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        try:
            while True:
                self._pace = pacing.began(self._pace)
                self._enter(LinkPhase.CONNECTING, attempt=self._pace.attempt)
                reaction = await self._attempt()
                await self._rest(reaction)
        finally:
            self._enter(LinkPhase.WAITING, reason="the link is not kept at the moment")

    # --- one attempt -----------------------------------------------------------------------------------

    async def _attempt(self) -> Reaction:
        line: _Line | None = None
        try:
            papers = await self._find_papers()
            async with self._dialer.dial() as socket:
                line = _Line(socket, papers, trio.current_time())
                await self._hold(line)
                await socket.close(*line.farewell)
        except CredentialsError as error:
            return refusals.react_to_credentials(str(error))
        except DialError as error:
            return _of_dial(error)
        except SocketClosedError as closed:
            if line is None or line.reaction is None:
                return _of_close(closed, line)
        return _reaction_of(line)

    async def _find_papers(self) -> _Papers:
        key, shared = await self._credentials.key(), await self._credentials.shared_token()
        device = await self._credentials.device_token(self._dialer.url)
        with_device = device is not None and (self._prefer_device or shared is None)
        had = Credentials(shared is not None, device is not None, with_device)
        return _Papers(key, had, (device if with_device else shared) or "", device)

    async def _hold(self, line: _Line) -> None:
        self._line = line
        try:
            with line.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, line)
                    nursery.start_soon(self._watch, line)
                    await self._read(line, nursery)
        finally:
            self._line = None
            reason = _reaction_of(line).reason
            self._enter(LinkPhase.WAITING, reason=reason, attempt=self._pace.attempt)
            line.lose(reason)
            if line.greeted_at is not None:
                self._pace = pacing.lasted(self._pace, trio.current_time() - line.greeted_at)

    async def _read(self, line: _Line, nursery: trio.Nursery) -> None:
        while True:
            try:
                data = await line.socket.receive()
                happened = line.conversation.receive(data, trio.current_time())
            except SocketClosedError as closed:
                self._announced = self._announced or closed.code == _SERVICE_RESTART
                line.end(_of_close(closed, line))
                return
            except RemoteProtocolError as error:
                told = refusals.react_to_close(_PROTOCOL_ERROR, str(error), greeted=line.greeted)
                line.end(told, _PROTOCOL_ERROR)
                return
            for one in happened:
                self._take(line, one, nursery)

    async def _write(self, line: _Line) -> None:
        while True:
            while line.outbox:
                request, text = next(iter(line.outbox.items()))
                del line.outbox[request]
                if request in line.waiters:
                    line.waiters[request].sent = True
                try:
                    with trio.fail_after(SEND_SEC):
                        await line.socket.send(text)
                except trio.TooSlowError:
                    line.end(refusals.react_to_silence("the gateway does not read"), _SILENT_CODE)
                except SocketClosedError:
                    return  # the reader has the reason
            await line.bell.wait()

    async def _watch(self, line: _Line) -> None:
        while True:
            if line.conversation.hello is None:
                limit, what = line.greet_by, "the gateway did not greet in time"
            else:
                limit, what = line.conversation.silent_at, "the gateway was silent for too long"
            if trio.current_time() >= limit:
                line.end(refusals.react_to_silence(what), _SILENT_CODE, "silent")
                return
            await trio.sleep_until(limit)

    async def _probe(self, line: _Line) -> None:
        """While it drains, somebody must ask whether it still does. The answer is read like any other."""
        while True:
            await trio.sleep(PROBE_WHILE_DRAINING_SEC)
            if line.conversation.state is not State.DRAINING:
                line.is_probing = False
                return
            if not line.conversation.pending:
                line.ask("health", {}, PROBE_WHILE_DRAINING_SEC)

    # --- what arrives ----------------------------------------------------------------------------------

    def _take(self, line: _Line, happened: Happened, nursery: trio.Nursery) -> None:
        match happened:
            case Challenged(challenge):
                self._answer_challenge(line, challenge)
            case Greeted(hello):
                self._greeted(line, hello, nursery)
            case ConnectRefused(fault):
                line.end(refusals.react_to_refusal(fault, line.papers.had))
            case Answered():
                self._answered(line, happened)
            case EventCame(name, payload):
                self._announced = self._announced or name == SHUTDOWN
                self._tell(GatewayEvent(name, payload))
            case EventsSkipped():
                self._tell(EventsMissed())
            case DrainingBegan(reason):
                self._enter(LinkPhase.DRAINING, keep=True, reason=reason)
                if not line.is_probing:
                    line.is_probing = True
                    nursery.start_soon(self._probe, line)
            case DrainingEnded():
                self._enter(LinkPhase.READY, keep=True)
                self._tell(EventsMissed())

    def _answer_challenge(self, line: _Line, challenge: Challenge) -> None:
        papers, scopes = line.papers, self._scopes
        device = device_of(papers.key.public_key)
        text = payload_to_sign(device, challenge, scopes=scopes, token=papers.chosen)
        params = build_connect(
            device,
            challenge,
            self._client,
            scopes=scopes,
            token=papers.chosen,
            signature=papers.key.sign(text),
        )
        line.connect_sent = trio.current_time()
        line.ask("connect", params, HANDSHAKE_SEC)

    def _greeted(self, line: _Line, hello: Hello, nursery: trio.Nursery) -> None:
        missing = hello.lacks(NEEDED_SCOPES)
        if missing:
            line.end(refusals.react_to_scopes(missing, hello.scopes))
            return
        if hello.device_token is not None and hello.device_token != line.papers.device_token:
            nursery.start_soon(self._keep, hello.device_token)
        now = trio.current_time()
        line.greeted_at = now
        restarted = self._has_restarted(hello, now)
        self._boot_id, self._greeted_at, self._announced = hello.boot_id, now, False
        self._told_down, self._told_reason = False, None
        self._enter(
            LinkPhase.READY,
            protocol=hello.protocol,
            server_version=hello.version,
            boot_id=hello.boot_id,
            scopes=hello.scopes,
            features=hello.features,
            latency_ms=_ms(now - line.connect_sent),
        )
        self._log.info("gateway.up", url=self._dialer.url, version=hello.version, protocol=hello.protocol)
        self._tell(LinkUp(self._state, restarted))

    def _has_restarted(self, hello: Hello, now: float) -> bool:
        """Since the last good handshake. Older gateways have no boot id: their end was announced, or their
        process is younger than that handshake."""
        if self._greeted_at is None:
            return False
        if hello.boot_id is not None:
            return hello.boot_id != self._boot_id
        young = hello.uptime is not None and hello.uptime < now - self._greeted_at - CLOCKS_DIFFER_SEC
        return self._announced or young

    def _answered(self, line: _Line, answer: Answered) -> None:
        self._state = msgspec.structs.replace(self._state, latency_ms=_ms(answer.took))
        waiter = line.waiters.get(answer.id)
        if waiter is not None:
            waiter.answer = answer
            waiter.done.set()

    async def _keep(self, token: str) -> None:
        try:
            await self._credentials.keep_device_token(self._dialer.url, token)
        except UnavailableError as error:
            self._log.warning("gateway.token_not_kept", reason=str(error))

    # --- between attempts ------------------------------------------------------------------------------

    async def _rest(self, reaction: Reaction) -> None:
        await self._move_tokens(reaction.token)
        pause = self._pause(reaction)
        phase = LinkPhase.REFUSED if reaction.refused else LinkPhase.WAITING
        self._enter(
            phase,
            reason=reaction.reason,
            remedy=reaction.remedy,
            attempt=self._pace.attempt,
            next_try_at=self._clock.now() + timedelta(seconds=pause),
        )
        if self._told_reason != reaction.reason:
            self._told_reason = reaction.reason
            facts = {"reason": reaction.reason, "remedy": reaction.remedy, "retry_in_sec": round(pause, 1)}
            self._log.warning("gateway.refused" if reaction.refused else "gateway.down", **facts)
        if not self._told_down:
            self._told_down = True
            self._tell(LinkDown(self._state))
        await self._nudge.wait(trio.current_time() + pause)

    def _pause(self, reaction: Reaction) -> float:
        match reaction.pacing:
            case Pacing.SLOW:
                return pacing.slow_pause(reaction.pause, self._jitter())
            case Pacing.STARTING:
                self._pace, pause = pacing.starting_pause(self._pace, reaction.told, self._jitter())
                return pause
            case Pacing.PLAN:
                return pacing.pause(self._pace, self._jitter())

    async def _move_tokens(self, move: TokenMove) -> None:
        if move is TokenMove.TRY_DEVICE:
            self._prefer_device = True
        elif move is TokenMove.DROP_DEVICE:
            self._prefer_device = False
            try:
                await self._credentials.drop_device_token(self._dialer.url)
            except UnavailableError as error:
                self._log.warning("gateway.token_not_dropped", reason=str(error))

    def _enter(
        self, phase: LinkPhase, *, keep: bool = False, reason: str | None = None, **facts: Any
    ) -> None:
        """`keep`: the handshake's facts stay, because it still stands."""
        old = self._state
        # An outage is one, however often it is tried to end it.
        is_same = old.phase is phase or (old.phase in AWAY and phase in AWAY)
        since = old.since if is_same else self._clock.now()
        if keep:
            self._state = msgspec.structs.replace(old, phase=phase, since=since, reason=reason, **facts)
        else:
            self._state = LinkState(phase=phase, url=old.url, since=since, reason=reason, **facts)

    def _tell(self, news: LinkNews) -> None:
        for listener in list(self._listeners):
            listener.tell(news)


def _result(waiter: _Waiter, late: str) -> Any:
    answer = waiter.answer
    if answer is None:
        raise GatewayUnavailableError(waiter.lost or late, sent=waiter.sent)
    if answer.fault is None:
        return answer.payload
    fault = answer.fault
    raise GatewayRefusedError(
        fault.code,
        fault.message,
        detail=fault.detail,
        retryable=fault.retryable,
        retry_after=fault.retry_after,
    )


def _reaction_of(line: _Line | None) -> Reaction:
    told = None if line is None else line.reaction
    return told or refusals.react_to_silence("the connection ended")


def _of_dial(error: DialError) -> Reaction:
    if error.status is not None:
        return refusals.react_to_http(error.status)
    return refusals.react_to_silence(clean(str(error)))


def _of_close(closed: SocketClosedError, line: _Line | None) -> Reaction:
    greeted = line is not None and line.greeted
    return refusals.react_to_close(closed.code, closed.reason, greeted=greeted)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
