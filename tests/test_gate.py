"""Who is let in, what those who are not are told, and that nothing of them is left behind."""

import random
from dataclasses import replace

import pytest

from arithmetic_engine import END, START
from seqserve_server.cost_model import CostModel, Costs, Load
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import Pair
from seqserve_server.errors import DeadlineUnreachable, QueueFull
from seqserve_server.gate import RETRY_LEAST_SECONDS, RETRY_MOST_SECONDS, Entered, Gate, GateLimits
from seqserve_server.request import Request, ScoreRequest

COSTS = Costs(step=(0.001, 0.0001), gap=(0.001, 0.0001), encode=(0.0, 0.0001), score=(0.0, 0.001), tokens=(20.0, 0.0))


def request(source: int = 4, most: int = 30, beams: int = 1, **changes: object) -> Request:
    whole = Request(0, (3,) * source, (START,), SearchSettings(END, most, beam_size=beams))
    return replace(whole, **changes)  # type: ignore[arg-type]


def knowing(waiting: int = 1000, rows: int = 10) -> Gate:
    return Gate(GateLimits(waiting, rows), CostModel(COSTS))


def test_a_gate_lets_all_of_a_call_in_or_none() -> None:
    gate = Gate(GateLimits(3, 2))
    first = gate.enter([request()] * 3, 0, 0.0)
    with pytest.raises(QueueFull, match="3 requests do not fit: 2 of 5 are free") as caught:
        gate.enter([request()] * 3, 0, 0.0)
    assert (caught.value.limit_name, caught.value.retry_after) == ("requests", RETRY_LEAST_SECONDS)
    assert gate.inside.requests == 3
    for each in [*first, *gate.enter([request()] * 2, 0, 0.0)]:
        gate.leave(each)
    assert (gate.inside, gate._lines) == (Load(), {})


def test_tokens_are_those_of_sources_and_the_most_that_every_hypothesis_may_get() -> None:
    gate = Gate(GateLimits(1000, 64, tokens=1000))
    gate.enter([request(4, 30), request(4, 30, beams=4)], 0, 0.0)
    assert gate.inside.tokens == (4 + 1 + 30) + (4 + 1 + 120)
    with pytest.raises(QueueFull, match="841 tokens do not fit: 840 of 1000 are free") as caught:
        gate.enter([request(800, 40)], 0, 0.0)
    assert caught.value.limit_name == "tokens"
    gate.enter([request(799, 40)], 0, 0.0)


def test_bytes_are_those_of_messages_and_known_before_anything_else() -> None:
    gate = Gate(GateLimits(1000, 64, bytes=1000))
    entered = gate.enter([request()] * 3, 900, 0.0)
    gate.check_room(1, 100)
    with pytest.raises(QueueFull, match="101 bytes do not fit: 100 of 1000 are free"):
        gate.check_room(1, 101)
    with pytest.raises(QueueFull, match="1062 requests do not fit: 1061 of 1064"):
        gate.check_room(1062, 0)
    for each in entered:
        gate.leave(each)
    assert gate.inside.bytes == 0


def test_what_belongs_to_requests_inside_is_not_refused() -> None:
    gate = Gate(GateLimits(0, 1, tokens=50))
    gate.enter([request()], 0, 0.0)
    pair = ScoreRequest(0, Pair((3, END), (START, 3, END), 1), deadline=0.0)
    gate.enter([pair] * 5, 0, 1.0, refuse=False)
    assert gate.inside.requests == 6


def test_nobody_is_refused_for_a_deadline_while_nothing_is_known() -> None:
    gate = Gate(GateLimits(1000, 1), CostModel())
    for _ in range(500):
        gate.enter([request(deadline=1.0)], 0, 0.999)


def test_a_deadline_that_has_passed_is_refused_all_the_same() -> None:
    with pytest.raises(DeadlineUnreachable, match=r"the deadline is in 0\.000 s"):
        Gate(GateLimits(1, 1)).enter([request(deadline=1.0)], 0, 1.0)


def test_an_idle_server_tries_whatever_it_believes() -> None:
    gate = knowing()
    gate.enter([request(deadline=1e-6)], 0, 0.0)


def test_a_deadline_that_the_queue_ahead_leaves_no_time_for_is_refused_at_the_door() -> None:
    gate = knowing()
    gate.enter([request()] * 510, 0, 0.0)  # 501 rows have to end first, 20 steps each, 10 at a time, 2 ms a step
    with pytest.raises(DeadlineUnreachable) as caught:
        gate.enter([request(deadline=2.0)], 0, 0.0)
    assert caught.value.least_seconds == pytest.approx(501 * 20 / 10 * 0.002 + 0.0005 + 0.0011)
    assert caught.value.remaining_seconds == 2.0
    gate.enter([request(deadline=2.01)], 0, 0.0)
    assert gate.inside.requests == 511


def test_only_who_certainly_goes_before_counts_against_a_deadline() -> None:
    gate = knowing()
    gate.enter([request()] * 510, 0, 0.0)
    for other in (request(tenant="other", deadline=1.0), request(priority=1, deadline=1.0)):
        gate.enter([other], 0, 0.0)


def test_pairs_wait_for_pairs() -> None:
    gate = knowing()
    gate.enter([request()] * 510, 0, 0.0)
    pair = ScoreRequest(0, Pair((3, END), (START, 3, END), 1), deadline=0.5)
    gate.enter([replace(pair, deadline=None)] * 40, 0, 0.0)  # 2 + 3 * 3 each, a millisecond for each of these
    gate.enter([pair], 0, 0.0)
    with pytest.raises(DeadlineUnreachable):
        gate.enter([replace(pair, deadline=0.4)], 0, 0.0)


def test_who_is_refused_is_told_when_a_place_is_likely_free_each_later_than_the_one_before() -> None:
    gate = knowing(waiting=90)
    entered = gate.enter([request()] * 100, 0, 0.0)
    told = []
    for _ in range(2000):
        with pytest.raises(QueueFull) as caught:
            gate.enter([request()], 0, 0.0)
        told.append(caught.value.retry_after)
    per_request = 20 * 0.002 / 10
    assert told == sorted(told)
    assert told[0] == RETRY_LEAST_SECONDS
    assert told[499] == pytest.approx(500 * per_request)
    assert told[-1] == RETRY_MOST_SECONDS
    for each in entered:
        gate.leave(each)
    gate.enter([request()] * 100, 0, 0.0)
    with pytest.raises(QueueFull) as caught:
        gate.enter([request()], 0, 0.0)
    # A hundred places became free for those who were told before; the 750 who did not fit into 5 s are forgotten.
    assert caught.value.retry_after == pytest.approx(RETRY_MOST_SECONDS - 99 * per_request)


def test_the_wait_that_a_newcomer_can_expect_is_told() -> None:
    gate = knowing()
    assert gate.estimated_wait == 0
    gate.enter([request()] * 9, 0, 0.0)
    assert gate.estimated_wait == 0
    gate.enter([request()] * 101, 0, 0.0)
    assert gate.estimated_wait == pytest.approx(101 * 20 * 0.002 / 10)
    assert Gate(GateLimits(1, 1)).estimated_wait == 0


def test_one_tenant_that_fills_the_queue_does_not_keep_others_out() -> None:
    gate = Gate(GateLimits(700, 100), weights={"gold": 3.0})
    flood = gate.enter([request(tenant="flood")] * 800, 0, 0.0)
    gate.check_room(100, 0, "light")
    gate.enter([request(tenant="light")] * 30, 0, 0.0)
    with pytest.raises(QueueFull):
        gate.check_room(1, 0, "flood")
    with pytest.raises(QueueFull, match="71 requests do not fit: 0 of 800 are free"):
        gate.check_room(71, 0, "light")  # the queue stays bounded
    gate.enter([request(tenant="gold")] * 70, 0, 0.0)
    for each in flood[:500]:
        gate.leave(each)
    with pytest.raises(QueueFull):
        gate.check_room(401, 0, "flood")
    gate.check_room(400, 0, "flood")
    for each in flood[500:]:
        gate.leave(each)
    with pytest.raises(QueueFull):
        gate.check_room(701, 0, "light")
    assert gate._ledger.weight == 4.0


def test_gates_of_several_models_count_together_and_know_each_its_own_queue() -> None:
    one = knowing()
    other = one.beside(CostModel(COSTS))
    entered = one.enter([request()] * 910, 0, 0.0)
    assert (one.inside, other.inside) == (one.inside, one.inside)
    assert (one.estimated_wait > 1, other.estimated_wait) == (True, 0)
    other.enter([request(deadline=0.1)], 0, 0.0)
    with pytest.raises(QueueFull, match="100 requests do not fit: 99 of 1010"):
        other.check_room(100, 0)
    for each in entered:
        one.leave(each)
    assert (one.inside.requests, one.estimated_wait) == (1, 0)


class GivesBackOneTokenTooMany(Gate):
    def leave(self, entered: Entered) -> None:
        line, load = entered
        super().leave((line, replace(load, sources=load.sources + 1)))


class ForgetsBytes(Gate):
    def leave(self, entered: Entered) -> None:
        line, load = entered
        super().leave((line, replace(load, bytes=0)))


def come_and_go(gate: Gate) -> None:
    """Any calls; what is inside is counted beside the gate."""
    rng, inside = random.Random(0), list[Entered]()
    for step in range(500):
        if inside and (step > 400 or rng.random() < 0.6):
            gate.leave(inside.pop(rng.randrange(len(inside))))
        else:
            made = [request(rng.randint(1, 9), rng.randint(1, 9), tenant=rng.choice("ab"))] * rng.randint(1, 3)
            inside += gate.enter(made, rng.randint(0, 99), 0.0)
        assert gate.inside == sum((load for _, load in inside), Load()), "the gate has lost count"
        for tenant in "ab":
            held = sum((load for (_, name, _), load in inside if name == tenant), Load())
            assert gate._ledger.tenants.get(tenant, Load()) == held, "the gate has lost count"
        assert gate._ledger.weight == len(gate._ledger.tenants)


def test_a_gate_never_loses_count() -> None:
    come_and_go(Gate(GateLimits(10_000, 1)))


@pytest.mark.parametrize("bug", [GivesBackOneTokenTooMany, ForgetsBytes])
def test_a_gate_that_loses_count_is_found(bug: type[Gate]) -> None:
    with pytest.raises(AssertionError, match="lost count"):
        come_and_go(bug(GateLimits(10_000, 1)))
