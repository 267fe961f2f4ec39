"""The link under virtual time, against a fake gateway in memory: a real websocket, no socket."""

from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from ambientd.ports.gateway import (
    EventsMissed,
    GatewayEvent,
    GatewayRefusedError,
    GatewayUnavailableError,
    LinkDown,
    LinkNews,
    LinkPhase,
    LinkUp,
)
from tests.fakes.gateway import Close, Delay, Fail, FakeGateway, Refusal, Silence, recorded_failure
from tests.fakes.gateway.methods import draining
from tests.services.gatewayrig import MemoryCredentials, Rig, linked

READY, WAITING, REFUSED, DRAINING = LinkPhase.READY, LinkPhase.WAITING, LinkPhase.REFUSED, LinkPhase.DRAINING


@pytest.mark.parametrize(("protocol", "version"), [(4, "2026.9.6"), (3, "2026.5.7")])
async def test_the_link_stands_with_both_versions(
    protocol: int, version: str, autojump_clock: MockClock
) -> None:
    async with linked(FakeGateway(protocol=protocol)) as rig:
        state = rig.link.state
        assert (state.phase, state.protocol, state.server_version) == (READY, protocol, version)
        assert (state.boot_id is not None) == (protocol == 4)
        assert state.connected
        assert state.scopes == ("operator.read", "operator.write")
        assert "sessions.list" in state.features
        assert (await rig.link.call("agents.list"))["agents"][1]["id"] == "tony"


async def test_a_refused_call_says_why_and_the_link_stays(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        with pytest.raises(GatewayRefusedError) as refused:
            await rig.link.call("sessions.create", {"agentId": "nobody", "message": "x"})
        assert refused.value.code == "INVALID_REQUEST"
        assert "nobody" in refused.value.message
        fail = Fail("UNAVAILABLE", "Model catalog is not ready", {"reason": "catalog"}, True, 700)
        rig.gateway.script("models.list", fail)
        with pytest.raises(GatewayRefusedError) as later:
            await rig.link.call("models.list", {"view": "configured"})
        assert (later.value.detail, later.value.retryable, later.value.retry_after) == ("catalog", True, 0.7)
        assert rig.link.state.phase is READY
        assert rig.gateway.connects == 1


async def test_many_calls_at_once_get_their_own_answers_in_any_order(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.reorder = True
        got: dict[str, object] = {}

        async def ask(key: str) -> None:
            got[key] = (await rig.link.call("sessions.describe", {"key": key}))["session"]["key"]

        keys = [rig.gateway.world.create_session("tony").key for _ in range(40)]
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(ask, key)
        assert got == {key: key for key in keys}


async def test_the_second_answer_of_one_request_is_dropped(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        first = await rig.link.call("agent", {"message": "x", "agentId": "tony", "idempotencyKey": "k"})
        assert first["status"] == "accepted"
        assert (await rig.link.call("health"))["ok"] is True
        assert rig.link.state.phase is READY


async def test_an_answer_that_stays_away_is_told_after_the_deadline(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.script("health", Silence(), Delay(20.0))
        began = trio.current_time()
        with pytest.raises(GatewayUnavailableError, match="no answer to health within 3 s") as late:
            await rig.link.call("health", timeout=3.0)
        assert late.value.sent
        assert trio.current_time() - began == pytest.approx(3.0)
        with pytest.raises(GatewayUnavailableError):
            await rig.link.call("health", timeout=3.0)
        await trio.sleep(30)  # the late answer comes to an id that nobody knows any more
        assert rig.link.state.phase is READY
        assert (await rig.link.call("health"))["ok"] is True


async def test_a_call_waits_as_long_as_is_configured(autojump_clock: MockClock) -> None:
    gateway = FakeGateway()
    gateway.always("health", Silence())
    async with linked(gateway, call_timeout=3.0) as rig:
        began = trio.current_time()
        with pytest.raises(GatewayUnavailableError, match="within 3 s"):
            await rig.link.call("health")
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)
        with pytest.raises(GatewayUnavailableError, match="within 7 s"):
            await rig.link.call("health", timeout=7)


async def test_draining_that_begins_again_and_again_is_asked_about_by_one_task(
    autojump_clock: MockClock,
) -> None:
    async with linked() as rig:
        tasks = trio.lowlevel.current_statistics().tasks_living
        refusal = Fail("UNAVAILABLE", "restarting", {"reason": "gateway-restarting"}, retryable=True)
        for _ in range(20):
            rig.gateway.script("health", refusal, None)
            with suppress(GatewayRefusedError):
                await rig.link.call("health")
            await rig.wait_phase(LinkPhase.DRAINING, seconds=1)
            rig.link._line.ask("health", {}, 5)  # type: ignore[union-attr]
            await rig.wait_phase(READY, seconds=1)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks + 1
        await trio.sleep(12)
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_cancelled_call_leaves_the_link_as_it_was(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.always("health", Delay(1.0))
        for _ in range(300):  # more than fit into the table, if they stayed in it
            with trio.move_on_after(0.001):
                await rig.link.call("health")
        rig.gateway.always("health", None)
        assert (await rig.link.call("health"))["ok"] is True
        assert rig.gateway.connects == 1


async def test_a_call_that_was_cancelled_before_it_left_is_never_sent(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.link.call("sessions.create", {"agentId": "tony", "message": "x"})
        await trio.sleep(1)
        assert rig.gateway.calls["sessions.create"] == 0


async def test_calls_that_wait_are_told_when_the_link_breaks(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.script("sessions.create", Close(1006))
        with pytest.raises(GatewayUnavailableError) as lost:
            await rig.link.call("sessions.create", {"agentId": "tony"}, timeout=60)
        assert lost.value.sent
        assert "cut" in str(lost.value)
        with pytest.raises(GatewayUnavailableError) as now:
            await rig.link.call("health")
        assert not now.value.sent


async def test_listeners_hear_what_happens_in_order(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        await rig.link.call("sessions.subscribe")
        session = rig.gateway.world.create_session("tony", message="hello")
        rig.gateway.world.finish(session.key)
        rig.gateway.emit("presence", {"x": 1})
        rig.gateway.emit("session.message", {"text": "secret words"})
        await trio.sleep(0.1)
        up, *events = rig.heard
        assert isinstance(up, LinkUp)
        assert not up.restarted
        names = [one.name for one in events if isinstance(one, GatewayEvent)]
        assert names == ["sessions.changed"] * 4
        last = events[-1]
        assert isinstance(last, GatewayEvent)
        assert last.payload["session"]["status"] == "done"
        assert "secret words" not in repr(rig.heard)


async def test_a_later_listener_begins_with_the_link_that_stands(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        news = rig.link.news()
        first = await anext(news)
        assert isinstance(first, LinkUp)
        assert first.state is rig.link.state


async def test_a_gap_in_the_events_is_told(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.emit("health", {"n": 1})
        rig.gateway.skip_seq()
        rig.gateway.emit("health", {"n": 2})
        await trio.sleep(0.1)
        assert [type(one) for one in rig.heard[1:]] == [GatewayEvent, EventsMissed, GatewayEvent]


async def test_a_listener_that_does_not_keep_up_is_told_once_and_memory_stays_flat(
    autojump_clock: MockClock,
) -> None:
    async with linked() as rig:
        news = rig.link.news()
        for number in range(5000):
            rig.gateway.emit("health", {"n": number})
            if number % 100 == 0:
                await trio.sleep(0.01)
        await trio.sleep(1)
        rig.gateway.drop(1012)
        await rig.wait_phase(WAITING)
        heard: list[LinkNews] = []
        while not (heard and isinstance(heard[-1], LinkDown)):
            heard.append(await anext(news))
        assert len(heard) < 300
        assert isinstance(heard[0], LinkUp)
        assert heard.count(EventsMissed()) == 1
        numbers = [one.payload["n"] for one in heard if isinstance(one, GatewayEvent)]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 4999


async def test_a_restart_is_told_apart_from_a_lost_line(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.drop(1012)
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY)
        rig.gateway.restart()
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY)
        assert [type(one) for one in rig.heard if not isinstance(one, GatewayEvent)] == [
            LinkUp,
            LinkDown,
            LinkUp,
            LinkDown,
            LinkUp,
        ]
        assert [one.restarted for one in rig.heard if isinstance(one, LinkUp)] == [False, False, True]


async def test_the_older_version_has_no_boot_id_and_its_announced_end_counts(
    autojump_clock: MockClock,
) -> None:
    async with linked(FakeGateway(protocol=3)) as rig:
        rig.gateway.drop(1006)
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY)
        rig.gateway.restart()
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY)
        assert [one.restarted for one in rig.heard if isinstance(one, LinkUp)] == [False, False, True]


async def test_an_older_gateway_that_was_killed_is_known_by_the_age_of_its_process(
    autojump_clock: MockClock,
) -> None:
    async with linked(FakeGateway(protocol=3)) as rig:
        await trio.sleep(300)
        rig.gateway.drop(1006)
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY)
        await trio.sleep(60)
        await rig.gateway.stop()
        await rig.wait_phase(WAITING)
        await rig.gateway.start()
        await rig.wait_phase(READY)
        assert [one.restarted for one in rig.heard if isinstance(one, LinkUp)] == [False, False, True]


async def test_a_gateway_that_drains_is_connected_and_answers_nothing(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.draining = True
        with pytest.raises(GatewayRefusedError) as refused:
            await rig.link.call("sessions.list", {"limit": 100})
        assert refused.value.detail == "gateway-restarting"
        assert rig.link.state.phase is DRAINING
        assert rig.link.state.connected
        assert rig.link.state.server_version == "2026.9.6"
        with pytest.raises(GatewayUnavailableError) as unsent:
            await rig.link.call("sessions.list")
        assert not unsent.value.sent
        rig.gateway.emit("health", {"n": 1})
        await trio.sleep(60)
        assert isinstance(rig.heard[-1], GatewayEvent)
        assert rig.gateway.calls["health"] <= 12  # one question each five seconds
        rig.gateway.draining = False
        await rig.wait_phase(READY, seconds=6)
        assert rig.gateway.connects == 1


async def test_a_silent_gateway_is_left_after_two_of_its_ticks(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        await trio.sleep(300)
        assert rig.link.state.phase is READY
        rig.gateway.hush = True
        began = trio.current_time()
        await rig.wait_phase(WAITING)
        assert 30 <= trio.current_time() - began <= 62
        assert "silent" in (rig.link.state.reason or "")
        rig.gateway.hush = False
        await rig.wait_phase(READY)


async def test_a_gateway_that_accepts_and_says_nothing_is_left_and_tried_again(
    autojump_clock: MockClock,
) -> None:
    gateway = FakeGateway()
    gateway.mute = True
    async with linked(gateway, wait=False) as rig:
        began = rig.link.state.since
        await trio.sleep(600)
        assert rig.link.state.since == began, "one outage, however often it is tried to end it"
        assert 10 <= gateway.connects <= 30
        assert (gateway.most_open, rig.link.state.phase) in [(1, LinkPhase.CONNECTING), (1, WAITING)]
        gateway.mute = False
        gateway.drop(1006)
        await rig.wait_phase(READY, seconds=50)


async def test_while_the_gateway_starts_it_is_asked_again_soon(autojump_clock: MockClock) -> None:
    gateway = FakeGateway()
    gateway.starting = True
    async with linked(gateway, wait=False) as rig:
        await trio.sleep(6)
        assert (rig.link.state.phase, rig.link.state.reason) == (WAITING, "the gateway is starting")
        assert 3 <= gateway.connects <= 9
        gateway.starting = False
        await rig.wait_phase(READY, seconds=3)


@pytest.mark.parametrize(
    ("case", "words", "in_ten_minutes"),
    [
        ("wrong token", "refused the token", 2),
        ("no auth at all", "wants a token", 2),
        ("LAN right token while locked out", "locked this host out", 3),
        ("protocol 5..5", "wants protocol 4", 2),
        ("LAN: device + shared token, unpaired", "pairing required", 15),
        ("role bogus", "invalid role", 2),
        ("bad signature", "signature", 2),
    ],
)
async def test_a_refusal_is_shown_and_not_repeated_fast(
    case: str, words: str, in_ten_minutes: int, autojump_clock: MockClock
) -> None:
    gateway = FakeGateway()
    gateway.refuse(recorded_failure(case))
    async with linked(gateway, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        state = rig.link.state
        assert words in (state.reason or "")
        assert state.remedy
        assert state.next_try_at is not None
        assert gateway.token not in repr(state) + repr(rig.log.lines)
        await trio.sleep(595)
        assert gateway.connects <= in_ten_minutes
        assert rig.log.events().count("gateway.refused") == 1
        gateway.refuse(None)
        rig.link.nudge()
        await rig.wait_phase(READY, seconds=2)


async def test_a_refusal_that_is_lifted_is_found_without_help(autojump_clock: MockClock) -> None:
    gateway = FakeGateway(lan=True)
    async with linked(gateway, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        assert rig.link.state.remedy == "On the gateway's machine: openclaw devices approve request-1"
        gateway.approve()
        await rig.wait_phase(READY, seconds=50)
        assert list(rig.credentials.kept.values()) == [next(iter(gateway.keeper.device_tokens.values()))]


async def test_a_wrong_shared_token_is_healed_by_the_devices_own(autojump_clock: MockClock) -> None:
    gateway = FakeGateway(lan=True)
    async with linked(gateway, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        gateway.approve()
        await rig.wait_phase(READY)
        gateway.keeper.token = "changed"
        before = gateway.connects
        gateway.drop(1012)
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY, seconds=10)
        assert gateway.connects - before == 2
        assert gateway.connect_params[-1]["auth"]["token"].startswith("device-token-")


async def test_a_void_device_token_is_dropped(autojump_clock: MockClock) -> None:
    gateway = FakeGateway()
    credentials = MemoryCredentials(shared=None)
    credentials.kept["ws://127.0.0.1:18789"] = "device-token-of-somebody"
    async with linked(gateway, credentials=credentials, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        assert (credentials.kept, credentials.dropped) == ({}, 1)
        credentials.shared = gateway.token
        await rig.wait_phase(READY, seconds=400)


async def test_a_key_file_that_cannot_be_used_is_said_and_nothing_is_dialled(
    autojump_clock: MockClock,
) -> None:
    credentials = MemoryCredentials("t")
    credentials.broken = "gateway_device.key has mode 0644"
    async with linked(credentials=credentials, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        assert "0644" in (rig.link.state.reason or "")
        assert rig.gateway.connects == 0
        credentials.broken = None
        credentials.shared = rig.gateway.token
        await rig.wait_phase(READY, seconds=70)


@pytest.mark.parametrize("scopes", [[], ["operator.read"]])
async def test_a_gateway_that_grants_too_little_is_refused_by_us(
    scopes: list[str], autojump_clock: MockClock
) -> None:
    gateway = FakeGateway()
    gateway.scopes = scopes
    async with linked(gateway, wait=False) as rig:
        await rig.wait_phase(REFUSED)
        assert "operator.write" in (rig.link.state.reason or "")
        assert not [one for one in rig.heard if isinstance(one, LinkUp)]
        gateway.scopes = None
        await rig.wait_phase(READY, seconds=400)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1006, 1008, 1011, 1012, 1013, 4001])
async def test_after_any_close_the_link_comes_back(code: int, autojump_clock: MockClock) -> None:
    async with linked() as rig:
        await trio.sleep(60)
        rig.gateway.drop(code, "for a test")
        await rig.wait_phase(WAITING)
        assert rig.link.state.reason
        await rig.wait_phase(READY, seconds=3)
        assert rig.gateway.most_open == 1


@pytest.mark.parametrize(
    "text",
    [
        "no frame",
        "[" * 5000,
        '{"type":"res","id":3}',
        '{"type":"event","event":"connect.challenge","payload":{}}',
        '{"type":"event","event":"tick","seq":"x"}',
    ],
)
async def test_a_frame_that_is_none_ends_the_connection_and_not_the_link(
    text: str, autojump_clock: MockClock
) -> None:
    async with linked() as rig:
        await trio.sleep(60)
        rig.gateway.send_raw(text)
        await rig.wait_phase(WAITING)
        await rig.wait_phase(READY, seconds=40)
        assert rig.gateway.handshakes == 2


async def test_answers_to_unknown_ids_and_unknown_frames_change_nothing(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        for text in (
            '{"type":"res","id":"old","ok":true,"payload":1}',
            '{"type":"res","id":"invalid","ok":false,"error":{}}',
            '{"type":"later","x":1}',
            '{"type":"event","event":"unheard.of","payload":[]}',
        ):
            rig.gateway.send_raw(text)
        await trio.sleep(1)
        assert (await rig.link.call("health"))["ok"] is True
        assert rig.gateway.connects == 1


async def test_ten_thousand_frames_in_a_burst_do_not_starve_a_call(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        rig.gateway.reorder = True
        for number in range(10_000):
            rig.gateway.emit("presence" if number % 2 else "health", {"n": number})
        assert (await rig.link.call("sessions.list", {"limit": 100}))["count"] == 0
        assert rig.link.state.phase is READY


async def test_a_connection_refused_follows_the_plan(autojump_clock: MockClock) -> None:
    gateway = FakeGateway()
    gateway.up = False
    async with linked(gateway, wait=False, jitter=lambda: 0.0) as rig:
        await trio.sleep(0.1)
        state = rig.link.state
        assert (state.phase, state.reason) == (WAITING, "no connection: connection refused")
        await trio.sleep(100)
        assert rig.link.state.attempt == 11  # at 0, 0.5, 1.5, 3.5, 7.5, 15.5 s, then each 15 s
        gateway.up = True
        await rig.wait_phase(READY, seconds=31)
        assert rig.link.state.attempt == 0


async def flap(rig: Rig, cycles: int, watch: Callable[[], None]) -> None:
    """Up for half a second, away for half a second, again and again."""
    for _ in range(cycles):
        rig.gateway.up = True
        await trio.sleep(0.5)
        rig.gateway.up = False
        rig.gateway.drop(1006)
        await trio.sleep(0.5)
        watch()


async def test_a_gateway_that_flaps_each_second_for_ten_minutes_is_met_calmly(
    autojump_clock: MockClock,
) -> None:
    """FAULTS N4."""
    dials, tasks = 0, set[int]()
    gateway = FakeGateway()
    real = gateway.open_stream

    async def counted(host: str, port: int) -> trio.abc.Stream:
        nonlocal dials
        dials += 1
        return await real(host, port)

    gateway.open_stream = counted  # type: ignore[method-assign]
    async with linked(gateway) as rig:
        await flap(rig, 600, lambda: tasks.add(trio.lowlevel.current_statistics().tasks_living))
        assert dials <= 80
        assert gateway.most_open <= 1
        assert max(tasks) - min(tasks) <= 6  # an open connection's own tasks, and no more
        began = trio.current_time()
        gateway.up = True
        await rig.wait_phase(READY, seconds=31)
        print(
            f"{dials} dials, {gateway.handshakes} handshakes, back after {trio.current_time() - began:.1f} s"
        )
        await trio.sleep(0.1)
        assert (await rig.link.call("health"))["ok"] is True


async def test_what_the_link_says_when_it_is_stopped(autojump_clock: MockClock) -> None:
    async with linked() as rig:
        link = rig.link
    assert link.state.phase is WAITING
    with pytest.raises(GatewayUnavailableError):
        await link.call("health")


async def test_a_draining_gateway_refuses_a_connect_and_is_waited_for(autojump_clock: MockClock) -> None:
    gateway = FakeGateway()
    fail = draining("connect")
    refusal = Refusal(
        fail.code, fail.message, fail.details, (1013, "draining"), retryable=True, retry_after_ms=1000
    )
    gateway.refuse(refusal, times=3)
    async with linked(gateway, wait=False) as rig:
        await rig.wait_phase(READY, seconds=10)
        assert gateway.connects == 4
