"""The fake gateway's websocket side: connections, handshake, answers, events, and everything going wrong."""

import json
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio_websocket
from trio.testing import memory_stream_pair

from tests.fakes.clock import EPOCH
from tests.fakes.gateway import methods
from tests.fakes.gateway.auth import STARTING, Keeper, Refusal
from tests.fakes.gateway.dialect import MAX_PAYLOAD, TICK_MS, Dialect
from tests.fakes.gateway.methods import Answer, Close, Delay, Effect, Fail, RefusedError, Silence
from tests.fakes.gateway.world import MODELS, Agent, Change, World

Json = dict[str, Any]
TOKEN = "gateway-token-for-tests"
_TEXTS = ("session.message", "session.tool")


class Peer:
    """One connection. Frames leave in the order they were given to `send`."""

    def __init__(self, socket: trio_websocket.WebSocketConnection, stream: trio.abc.Stream) -> None:
        self.socket = socket
        self.stream = stream
        self.scopes: list[str] = []
        self.scoped = False  # caps session-scoped-events
        self.ready = False
        self.subscribed = False
        self.seq = 0
        self._out: deque[str | Close] = deque()
        self._bell = trio.Event()

    def send(self, frame: Json | str) -> None:
        """Queues a frame."""
        self._out.append(frame if isinstance(frame, str) else json.dumps(frame))
        self._bell.set()

    def end(self, code: int, reason: str = "") -> None:
        """Queues the end; 1006 cuts the transport."""
        self._out.append(Close(code, reason))
        self._bell.set()

    async def write(self) -> None:
        """Sends what is queued until the end."""
        while True:
            while self._out:
                item = self._out.popleft()
                if isinstance(item, Close):
                    if item.code == 1006:
                        await trio.aclose_forcefully(self.stream)
                    else:
                        with trio.move_on_after(1):
                            await self.socket.aclose(item.code, item.reason or None)
                        await trio.aclose_forcefully(self.stream)
                    return
                await self.socket.send_message(item)
            self._bell = trio.Event()
            await self._bell.wait()


class FakeGateway:
    """See the package's docstring. `now_ms` is its wall clock; by default it follows trio's mock clock."""

    def __init__(
        self,
        *,
        protocol: int = 4,
        agents: Sequence[str | Agent] = ("main", "tony"),
        models: Sequence[str] = MODELS,
        token: str = TOKEN,
        auto_run: float | None = None,
        tick_ms: int = TICK_MS,
        extra_fields: bool = True,
        lan: bool = False,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._now_ms = now_ms
        self.dialect = Dialect(protocol, extra_fields)
        self.keeper = Keeper(token, protocol, lan)
        self.world = World(now_ms=self.now_ms, tell=self._tell, agents=agents, models=models)
        self.auto_run = auto_run
        self.tick_ms = tick_ms
        self.boot_id = str(uuid.uuid4())
        self.up = True
        self._process_ms: int | None = None
        self.starting = self.draining = self.mute = self.hush = self.reorder = False
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, Json]] = []
        self.connect_params: list[Json] = []
        self.connects = self.handshakes = self.most_open = self.largest_limit = 0
        self.peers: set[Peer] = set()
        self.port = 0
        self._open: set[trio.abc.Stream] = set()
        self._scripts: dict[str, deque[Effect | None]] = {}
        self._always: dict[str, Effect] = {}
        self._refusals: deque[Refusal] = deque()
        self._refuse_all: Refusal | None = None
        self._nursery: trio.Nursery | None = None
        self._listening: trio.CancelScope | None = None
        self._closed = trio.Event()

    # --- how to reach it -------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeGateway"]:
        """Without sockets: reached through `open_stream`, under any clock."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._ticks)
            yield self
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator["FakeGateway"]:
        """On loopback; `stop` and `start` close and open the port."""
        async with self.running():
            self.port = port
            await self._listen()
            yield self

    async def _listen(self) -> None:
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery = self.nursery
        scope = self._listening = trio.CancelScope()
        closed = self._closed = trio.Event()

        async def accept() -> None:
            try:
                with scope:
                    await trio.serve_listeners(self.serve, listeners, handler_nursery=nursery)
            finally:
                for listener in listeners:
                    listener.socket.close()
                closed.set()

        nursery.start_soon(accept)

    @property
    def nursery(self) -> trio.Nursery:
        """Where its tasks live."""
        assert self._nursery is not None, "the gateway does not run"
        return self._nursery

    @property
    def token(self) -> str:
        """The shared token."""
        return self.keeper.token

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"ws://127.0.0.1:{self.port or 18789}"

    @property
    def open_now(self) -> int:
        """Transport connections that are open."""
        return len(self._open)

    def now_ms(self) -> int:
        """Its wall clock; unless another was given, the tests' epoch and a mock clock's time."""
        if self._now_ms is not None:
            return self._now_ms()
        return int(EPOCH.timestamp() * 1000 + trio.current_time() * 1000)

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """A new connection in memory; ConnectionRefusedError while it is down."""
        await trio.lowlevel.checkpoint()
        if not self.up:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.serve, ours)
        return theirs

    # --- what tests make it do -------------------------------------------------------------------------

    def script(self, method: str, *effects: Effect | None) -> None:
        """The next answers of a method, one each; None is the usual answer."""
        self._scripts.setdefault(method, deque()).extend(effects)

    def always(self, method: str, effect: Effect | None) -> None:
        """Every answer of a method until changed; None goes back to usual."""
        if effect is None:
            self._always.pop(method, None)
        else:
            self._always[method] = effect

    def refuse(self, refusal: Refusal | None, *, times: int | None = None) -> None:
        """Connects fail: the next `times`, or all; None forgives."""
        if times is None:
            self._refuse_all = refusal
            self._refusals.clear()
        elif refusal is not None:
            self._refusals.extend([refusal] * times)

    @property
    def scopes(self) -> list[str] | None:
        """What hello grants, whatever was asked for; None: what was asked for."""
        return self.keeper.scopes

    @scopes.setter
    def scopes(self, scopes: list[str] | None) -> None:
        self.keeper.scopes = scopes

    def approve(self) -> None:
        """Approves the devices that wait."""
        self.keeper.approve()

    def drop(self, code: int = 1012, reason: str = "") -> None:
        """Ends every connection."""
        for peer in list(self.peers):
            peer.end(code, reason)
        if code == 1006:
            self.boot_id = str(uuid.uuid4())

    def announce_shutdown(self, reason: str = "gateway stopping", restart_ms: int | None = None) -> None:
        """The event before a stop."""
        self.emit("shutdown", {"reason": reason} | ({"restartExpectedMs": restart_ms} if restart_ms else {}))

    def restart(self) -> None:
        """Announced, closed with 1012, another boot id; up again at once, and in the same process."""
        self.announce_shutdown("gateway restarting", 1500)
        self.drop(1012, "service restart")
        self.boot_id = str(uuid.uuid4())
        self.draining = False

    def _uptime_ms(self) -> int:
        """The process is somewhat older than the first handshake."""
        if self._process_ms is None:
            self._process_ms = self.world.now_ms() - 119_697
        return self.world.now_ms() - self._process_ms

    async def stop(self) -> None:
        """Nothing listens any more; connections are cut."""
        self.up = False
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
            await self._closed.wait()
        self.drop(1006)

    async def start(self) -> None:
        """Listens again, as another process."""
        self.up = True
        self._process_ms = self.world.now_ms()
        self.boot_id = str(uuid.uuid4())
        self.draining = False
        if self.port:
            await self._listen()

    def skip_seq(self, count: int = 1) -> None:
        """The next event's number leaves a gap."""
        for peer in self.peers:
            peer.seq += count

    def emit(self, event: str, payload: Json | None = None, *, numbered: bool = True) -> None:
        """An event to everyone who is through the handshake."""
        for peer in self.peers:
            if peer.ready:
                self._send_event(peer, event, payload or {}, numbered=numbered)

    def send_raw(self, text: str) -> None:
        """This text to everyone, as a frame."""
        for peer in self.peers:
            peer.send(text)

    # --- connections -----------------------------------------------------------------------------------

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection to its end."""
        self.connects += 1
        self._open.add(stream)
        self.most_open = max(self.most_open, len(self._open))
        try:
            async with trio.open_nursery() as nursery:
                request = await trio_websocket.wrap_server_stream(
                    nursery, stream, max_message_size=MAX_PAYLOAD
                )
                socket = await request.accept()
                peer = Peer(socket, stream)
                self.peers.add(peer)
                try:
                    nursery.start_soon(self._write, peer)
                    if not self.mute:
                        await self._talk(peer)
                    while True:  # mute: what is said is heard and not answered
                        await socket.get_message()
                finally:
                    self.peers.discard(peer)
                    nursery.cancel_scope.cancel()
        except* (
            trio_websocket.ConnectionClosed,
            trio_websocket.HandshakeError,
            OSError,
            trio.ClosedResourceError,
        ):
            pass
        finally:
            self._open.discard(stream)
            await trio.aclose_forcefully(stream)

    async def _write(self, peer: Peer) -> None:
        try:
            await peer.write()
        except (trio_websocket.ConnectionClosed, trio.BrokenResourceError):
            return

    async def _talk(self, peer: Peer) -> None:
        nonce, ts = str(uuid.uuid4()), self.now_ms()
        self._direct(peer, "connect.challenge", self.dialect.challenge(nonce, ts))
        while True:
            frame = json.loads(await peer.socket.get_message())
            if not peer.ready:
                await self._handshake(peer, frame, nonce, ts)
            else:
                self.nursery.start_soon(self._request, peer, frame)

    async def _handshake(self, peer: Peer, frame: Json, nonce: str, ts: int) -> None:
        if frame.get("method") != "connect":
            self._fail(
                peer, frame["id"], Fail("INVALID_REQUEST", "invalid handshake: first request must be connect")
            )
            peer.end(1008, "invalid handshake")
            return
        params = frame["params"]
        self.connect_params.append(params)
        verdict = self._verdict(params, nonce, ts)
        if isinstance(verdict, Refusal):
            if verdict.delay:
                await trio.sleep(verdict.delay)
            peer.send(self._more({"type": "res", "id": frame["id"], "ok": False, "error": verdict.error()}))
            peer.end(*verdict.close)
            return
        self.handshakes += 1
        peer.scopes, peer.scoped = verdict["scopes"], "session-scoped-events" in params.get("caps", [])
        hello = self.dialect.hello(
            self.world,
            auth=verdict,
            boot_id=self.boot_id,
            conn_id=str(uuid.uuid4()),
            tick_ms=self.tick_ms,
            uptime_ms=self._uptime_ms(),
        )
        peer.ready = True
        peer.send(self._more({"type": "res", "id": frame["id"], "ok": True, "payload": hello}))

    def _verdict(self, params: Json, nonce: str, ts: int) -> Json | Refusal:
        if self.starting:
            return STARTING
        if self._refusals:
            return self._refusals.popleft()
        return self._refuse_all or self.keeper.check(params, nonce=nonce, ts=ts)

    async def _request(self, peer: Peer, frame: Json) -> None:
        method, params = frame["method"], frame.get("params") or {}
        self.calls[method] += 1
        self.requests.append((method, params))
        if method == "sessions.list":
            self.largest_limit = max(self.largest_limit, params.get("limit", 100))
        script = self._scripts.get(method)
        effect = script.popleft() if script else self._always.get(method)
        match effect:
            case Answer(payload):
                await self._answer(peer, frame["id"], payload)
            case Fail():
                self._fail(peer, frame["id"], effect)
            case Silence():
                return
            case Close(code, reason):
                peer.end(code, reason)
            case Delay(seconds):
                await self._usual(peer, frame["id"], method, params, seconds)
            case None:
                await self._usual(peer, frame["id"], method, params, 0.0)

    async def _usual(self, peer: Peer, request: str, method: str, params: Json, delay: float) -> None:
        if self.draining:
            self._fail(peer, request, methods.draining(method))
            return
        try:
            payload = methods.answer(method, params, self.world, self.dialect, peer.scopes)
        except RefusedError as refused:
            self._fail(peer, request, refused.fail)
            return
        if method == "sessions.subscribe":
            peer.subscribed = True
        if delay:
            await trio.sleep(delay)
        await self._answer(peer, request, payload)
        if method == "agent":
            self._answer_now(
                peer, request, {"status": "ok", "runId": payload["runId"], "summary": "completed"}
            )

    async def _answer(self, peer: Peer, request: str, payload: Any) -> None:
        if self.reorder and len(self.requests) % 2:
            await trio.sleep(0.05)
        self._answer_now(peer, request, payload)

    def _answer_now(self, peer: Peer, request: str, payload: Any) -> None:
        peer.send(self._more({"type": "res", "id": request, "ok": True, "payload": payload}))

    def _fail(self, peer: Peer, request: str, fail: Fail) -> None:
        peer.send(self._more({"type": "res", "id": request, "ok": False, "error": fail.error()}))

    def _more(self, frame: Json) -> Json:
        return self.dialect.more(frame)

    # --- events ----------------------------------------------------------------------------------------

    def _direct(self, peer: Peer, event: str, payload: Json) -> None:
        peer.send(self._more({"type": "event", "event": event, "payload": payload}))

    def _send_event(self, peer: Peer, event: str, payload: Json, *, numbered: bool = True) -> None:
        frame: Json = {"type": "event", "event": event, "payload": payload}
        if numbered:
            peer.seq += 1
            frame |= {"seq": peer.seq, "stateVersion": {"presence": 1, "health": 4}}
        peer.send(self._more(frame))

    def _tell(self, change: Change) -> None:
        if change.event == "sessions.changed" and change.phase == "start" and change.session is not None:
            self._plan(change.session.key, change.session.model, change.run_id)
        payload, numbered = self.dialect.event(change, self.now_ms())
        for peer in self.peers:
            if self._may_see(peer, change):
                self._send_event(peer, change.event, payload, numbered=numbered)

    def _may_see(self, peer: Peer, change: Change) -> bool:
        if not peer.ready or methods.READ not in peer.scopes:
            return False
        if change.event in ("sessions.changed", *_TEXTS):
            return peer.subscribed
        if change.event in ("agent", "chat"):  # 2026.5.7 does not know the capability
            return not (peer.scoped and self.dialect.new)
        return True

    def _plan(self, key: str, model: str, run_id: str | None) -> None:
        if self.auto_run is None or self._nursery is None or "slow" in model or "hang" in model:
            return

        async def go() -> None:
            assert self.auto_run is not None
            await trio.sleep(self.auto_run)
            session = self.world.sessions.get(key)
            if session is None or session.run_id != run_id:
                return
            if "400" in model or "fail" in model:
                self.world.fail(key)
            else:
                self.world.finish(key)

        self._nursery.start_soon(go)

    async def _ticks(self) -> None:
        while True:
            await trio.sleep(self.tick_ms / 1000)
            if not self.hush:
                self.emit("tick", {"ts": self.now_ms()})
