from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.breaker import FAILURES_TO_OPEN, RETRY_AFTER_SEC, Breaker, failed, retry_at, succeeded
from ambientd.core.queueing import Waiting, choose

AGENTS = ("a", "b", "c")


def waiting(*agents: str) -> list[Waiting]:
    return [Waiting(f"s{index}", agent) for index, agent in enumerate(agents)]


def test_an_agent_runs_as_many_as_it_may_and_the_rest_waits_in_order() -> None:
    choice = choose(waiting("a", "a", "b", "a"), {}, limits={"a": 2, "b": 1}, total=8, breakers={}, now=0)
    assert choice.start == ("s0", "s1", "s2")


def test_the_node_s_own_bound_goes_over_the_agents() -> None:
    choice = choose(
        waiting("a", "b", "c"), {"a": 1}, limits=dict.fromkeys(AGENTS, 9), total=3, breakers={}, now=0
    )
    assert choice.start == ("s0", "s1")


def test_a_session_of_an_unknown_agent_is_picked_so_that_it_can_be_closed() -> None:
    assert choose(waiting("gone"), {}, limits={}, total=1, breakers={}, now=0).start == ("s0",)


def test_an_open_breaker_holds_its_agent_back_and_says_when_to_look_again() -> None:
    breakers = {"a": Breaker(3, 100.0)}
    choice = choose(waiting("a", "b"), {}, limits={"a": 5, "b": 5}, total=8, breakers=breakers, now=120)
    assert choice.start == ("s1",)
    assert choice.look_again_at == 100 + RETRY_AFTER_SEC


def test_a_breaker_whose_time_has_come_lets_one_trial_through() -> None:
    breakers = {"a": Breaker(3, 100.0)}
    late = choose(waiting("a", "a"), {}, limits={"a": 5}, total=8, breakers=breakers, now=161)
    assert late.start == ("s0",)


def test_three_failed_starts_open_the_breaker_and_one_good_start_closes_it() -> None:
    state = Breaker()
    for number in range(FAILURES_TO_OPEN):
        assert retry_at(state) is None
        state = failed(state, float(number))
    assert retry_at(state) == FAILURES_TO_OPEN - 1 + RETRY_AFTER_SEC
    assert succeeded(state) == Breaker()


@given(
    st.lists(st.sampled_from(AGENTS), max_size=30),
    st.dictionaries(st.sampled_from(AGENTS), st.integers(0, 5)),
    st.fixed_dictionaries({agent: st.integers(1, 4) for agent in AGENTS}),
    st.integers(1, 10),
)
def test_no_bound_is_ever_passed_and_no_room_is_left_unused(
    agents: list[str], running: dict[str, int], limits: dict[str, int], total: int
) -> None:
    queue = waiting(*agents)
    chosen = choose(queue, running, limits=limits, total=total, breakers={}, now=0).start
    by_id = {item.session_id: item.agent_id for item in queue}
    for agent in AGENTS:
        mine = sum(by_id[name] == agent for name in chosen)
        assert mine == 0 or running.get(agent, 0) + mine <= limits[agent]
    started, before = len(chosen), sum(running.values())
    assert started == 0 or before + started <= total
    left = [item for item in queue if item.session_id not in chosen]
    for item in left:
        count = running.get(item.agent_id, 0) + sum(by_id[name] == item.agent_id for name in chosen)
        assert before + started >= total or count >= limits[item.agent_id]
