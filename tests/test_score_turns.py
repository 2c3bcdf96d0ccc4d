"""Pairs to score beside running requests: nobody starves, nobody is lost, and every fault of a kind is seen."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from arithmetic_engine import END
from hand_loop import HandLoop, make_limits
from scheduling import make_scheduler
from scheduling import request as make_request
from seqserve_server.engine import Pair, Scored
from seqserve_server.plan import Plan
from seqserve_server.request import Event, Failed, Finished, FinishReason, PairScored, Request, ScoreRequest
from seqserve_server.scheduler import Scheduler
from seqserve_server.score_queue import ScoreQueue, passes

POISON, NAN = 29, 30  # outside of the vocabulary: nobody has them by chance
SOURCE = (5, 6, END)


class Traffic(HandLoop):
    """Requests and pairs at once. After every step: who waited had a reason, and who ran had a token."""

    def __init__(self, scheduler: Scheduler | None = None, max_rows: int = 4, encode_tokens: int = 40) -> None:
        limits = make_limits(max_rows, encode_tokens)
        super().__init__(limits, None, scheduler or Scheduler(limits))
        self.engine.poison, self.engine.nan = POISON, NAN
        self._idle_turns = {"pairs": 0, "requests": 0}

    def step(self) -> list[Event]:
        """One iteration, a second long."""
        self.now += 1.0
        steps, encoded, scored = len(self.engine.steps), len(self.engine.encoded), len(self.engine.passes)
        wait_for_turn, room = set(self.open), self.limits.max_rows - self.scheduler.running
        fresh = super().step()
        encodes, scores = len(self.engine.encoded) > encoded, len(self.engine.passes) > scored
        if self.scheduler.running_ids():
            broken = any(isinstance(event, Failed) and event.message == "the encoder failed" for event in fresh)
            assert len(self.engine.steps) == steps + (not broken), "running requests were left out of a step"
        waiting = [number for number in self.open if number in wait_for_turn]
        pairs = [number for number in waiting if number in self.pairs]
        requests = [number for number in waiting if number in self.requests.keys() - {*self.scheduler.running_ids()}]
        self._idle("pairs", bool(pairs) and not scores)
        self._idle("requests", bool(requests) and not encodes and room > 0)
        for number in pairs:
            deadline = self.pairs[number].deadline
            assert deadline is None or self.now < deadline, "a pair waits longer than its caller"
        return fresh

    def _idle(self, who: str, idle: bool) -> None:
        self._idle_turns[who] = self._idle_turns[who] + 1 if idle else 0
        assert self._idle_turns[who] <= 1, f"{who} starve"

    def play(self, seed: int, count: int = 250) -> None:
        """Bursts of both kinds, long and short, good and bad, impatient and forgotten."""
        rng = random.Random(seed)
        while len(self.requests) + len(self.pairs) < count:
            for _ in range(rng.choice((0, 1, 1, 2, 9))):
                bad = (rng.choice((POISON, NAN)),) if rng.random() < 0.1 else ()
                source = (*bad, *(rng.randrange(3, 29) for _ in range(rng.choice((1, 2, 20, 60)))), END)
                deadline = rng.choice((None, None, None, self.now + rng.randrange(12)))
                if rng.random() < 0.5:
                    target = [rng.randrange(2, 29) for _ in range(rng.choice((0, 1, 6, 45)))]
                    number = self.submit_pair(source, (*target, END), deadline)
                else:
                    number = self.submit(source, rng.choice((1, 3, 12)), stream=rng.random() < 0.5, deadline=deadline)
                if rng.random() < 0.1:
                    self.cancel(rng.randint(max(0, number - 4), number))
            self.step()
        self.run(2_000)
        assert set(self.ended) == self.requests.keys() | self.pairs.keys(), "somebody never ended"


@pytest.mark.parametrize("seed", range(6))
def test_requests_and_pairs_go_on_side_by_side_and_each_has_one_end(seed: int) -> None:
    traffic = Traffic(max_rows=(1, 4, 16)[seed % 3], encode_tokens=(16, 80, 800)[seed // 2])
    traffic.play(seed)
    ends = [traffic.ended[number] for number in traffic.pairs]
    assert {type(end) for end in ends} == {PairScored, Finished, Failed}
    assert {end.message for end in ends if isinstance(end, Failed)} == {
        "the scorer failed", "the model produced a value that is not finite"
    }
    assert {end.reason for end in ends if isinstance(end, Finished)} == {FinishReason.CANCELLED, FinishReason.DEADLINE}


def test_a_stream_has_a_token_in_every_step_while_pairs_are_scored_in_slices() -> None:
    hand = HandLoop(make_limits(4, encode_tokens=48))
    stream = hand.submit((26, END), 20, stream=True)
    hand.step()
    pairs = [hand.submit_pair(SOURCE, (14, 28, END)) for _ in range(9)]  # of 3 and 4 tokens each, which cost 15
    for done in (3, 6, 9):
        hand.step()
        assert [isinstance(hand.ended.get(number), PairScored) for number in pairs].count(True) == done
        assert hand.facts[-1].tokens == 1
    assert [len(batch) for batch in hand.engine.passes] == [3, 3, 3]
    assert (hand.facts[-1].scored_tokens, hand.facts[-1].source_tokens) == (9, 9)
    assert stream in hand.open


def test_the_scores_are_the_pencils() -> None:
    hand = HandLoop()
    number = hand.submit_pair(SOURCE, (14, 2, END), prompt=(2, 7))
    hand.run()
    end = hand.ended[number]
    assert isinstance(end, PairScored)
    # The best are 12 + 2 + 7 = 21, then 21 + 14 - 29 = 6 and 8; from them, 14, 2 and 1 are the 22nd, 25th, 22nd.
    assert end.log_probs == [-21 / 128 - 11 / 8, -6 / 128 - 13 / 8, -8 / 128 - 11 / 8]
    assert (end.alignment * 6).round(5).tolist() == [[4, 1, 1], [1, 4, 1], [1, 1, 4]]


def test_a_giant_goes_alone_and_arrivals_do_not_wait_behind_a_crowd_of_pairs() -> None:
    hand = HandLoop(make_limits(4, encode_tokens=16))
    giant = hand.submit_pair((*[3] * 40, END), (*[4] * 40, END))
    for _ in range(50):
        hand.submit_pair(SOURCE, (END,))
    request = hand.submit(SOURCE, 3)
    hand.step()  # who has waited for rows comes first where nobody has had a turn
    assert hand.scheduler.running_ids() == [request]
    hand.step()
    assert [len(batch) for batch in hand.engine.passes] == [1]
    assert isinstance(hand.ended[giant], PairScored)
    late = hand.submit(SOURCE, 3)
    hand.step()
    assert late in hand.scheduler.running_ids()


def test_one_bad_pair_fails_alone_and_the_others_of_its_pass_are_scored() -> None:
    hand = HandLoop()
    hand.engine.poison = POISON
    good = [hand.submit_pair(SOURCE, (14, END)) for _ in range(3)]
    bad = hand.submit_pair((POISON, END), (14, END))
    more = [hand.submit_pair(SOURCE, (28, END)) for _ in range(3)]
    hand.run()
    assert [len(batch) for batch in hand.engine.passes] == [7, 1, 1, 1, 1, 1, 1, 1]
    assert hand.ended[bad] == Failed(bad, "the scorer failed")
    assert all(isinstance(hand.ended[number], PairScored) for number in (*good, *more))


def test_passes_hold_pairs_of_similar_length() -> None:
    sizes = [(1, 2), (16, 16), (17, 30), (33, 2), (64, 2), (97, 3), (5, 64), (5, 33)]
    pairs = [ScoreRequest(0, Pair([3] * source, [4] * target, 1)) for source, target in sizes]
    found = [[(len(each.pair.source), len(each.pair.target)) for each in batch] for batch in passes(pairs)]
    assert sorted(size for batch in found for size in batch) == sorted(sizes)
    assert found == [[(1, 2)], [(33, 2), (64, 2)], [(97, 3)], [(16, 16), (17, 30)], [(5, 33), (5, 64)]]
    assert passes([]) == []


def test_when_the_engine_stops_pairs_are_told_and_the_queue_is_empty() -> None:
    scheduler = make_scheduler()
    scheduler.submit(ScoreRequest(1, Pair(SOURCE, (2, END), 1)))
    scheduler.submit(make_request(2))
    assert (scheduler.waiting, scheduler.empty) == (2, False)
    assert {event.request_id for event in scheduler.fail_all("over")} == {1, 2}
    assert (scheduler.waiting, scheduler.idle) == (0, True)


class EncodesAndScores(Scheduler):
    def plan(self, now: float) -> Plan:
        return replace(super().plan(now), score=self.pairs.turn())


class LetsPairsWait(Scheduler):
    def plan(self, now: float) -> Plan:
        self._pairs_first = False
        return super().plan(now)


class LetsRequestsWait(Scheduler):
    def plan(self, now: float) -> Plan:
        self._pairs_first = True
        return super().plan(now)


class ForgetsDeadlinesOfPairs(Scheduler):
    def submit(self, request: Request | ScoreRequest) -> None:
        super().submit(replace(request, deadline=None) if isinstance(request, ScoreRequest) else request)


class ForgetsWhoCancels(Scheduler):
    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        events = super().cancel(request_id, now, reason)
        return [event for event in events if not isinstance(event, Finished) or event.times.admitted is not None]


class ScoresWithoutBound(ScoreQueue):
    def __init__(self, budget: int) -> None:
        super().__init__(1 << 30)


class LastComesFirst(ScoreQueue):
    def turn(self) -> list[list[ScoreRequest]]:
        for line in set(self._waiting._line_of.values()):
            line.waiting.move_to_end(next(reversed(line.waiting)), last=False)
        return super().turn()


class MixesLengths(ScoreQueue):
    def turn(self) -> list[list[ScoreRequest]]:
        return [[request for batch in super().turn() for request in batch]] if len(self) else []


class ForgetsWhoFailed(ScoreQueue):
    def failed(self, batch: Sequence[ScoreRequest]) -> list[Event]:
        return super().failed(batch)[:0]


class FailsAllOfAPass(ScoreQueue):
    def failed(self, batch: Sequence[ScoreRequest]) -> list[Event]:
        return [event for request in batch for event in super(FailsAllOfAPass, self).failed([request])]


class TriesForEver(ScoreQueue):
    def failed(self, batch: Sequence[ScoreRequest]) -> list[Event]:
        return []


class EndsTwice(ScoreQueue):
    def scored(self, batch: Sequence[ScoreRequest], found: Sequence[Scored], now: float) -> list[Event]:
        return super().scored(batch, found, now) * 2


class SwapsPairs(ScoreQueue):
    def scored(self, batch: Sequence[ScoreRequest], found: Sequence[Scored], now: float) -> list[Event]:
        return super().scored(batch, found[::-1], now)


SCHEDULERS: dict[type[Scheduler], str] = {
    EncodesAndScores: "for an encoder batch and for pairs",
    LetsPairsWait: "pairs starve",
    LetsRequestsWait: "requests starve",
    ForgetsDeadlinesOfPairs: "waits longer than its caller",
    ForgetsWhoCancels: "what was submitted",
}
QUEUES: dict[type[ScoreQueue], str] = {
    ScoresWithoutBound: "more than one budget of pairs",
    LastComesFirst: "a pair was overtaken",
    MixesLengths: "a short pair pays for a long one",
    ForgetsWhoFailed: "what was submitted",
    FailsAllOfAPass: "one bad pair fails others|an innocent pair failed",
    TriesForEver: "overtaken|still busy|starve|waits longer",
    EndsTwice: "after the terminal event",
    SwapsPairs: "not the pencil's scores|an innocent pair failed",
}


@pytest.mark.parametrize(("bug", "symptom"), SCHEDULERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_of_the_turns_is_found(bug: type[Scheduler], symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        Traffic(bug(make_limits(4, encode_tokens=40))).play(1)


@pytest.mark.parametrize(("bug", "symptom"), QUEUES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_of_the_queue_is_found(bug: type[ScoreQueue], symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        play_some(bug)


def play_some(queue: type[ScoreQueue]) -> None:
    for seed in range(5):
        traffic = Traffic(encode_tokens=400)
        traffic.scheduler.pairs = queue(400)
        traffic.play(seed)
