"""What holds of pairs to score after every step of the loop; :class:`hand_loop.HandLoop` asks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pencil import attention, scores
from seqserve_server.engine import Pair
from seqserve_server.request import Event, Failed, Finished, FinishReason, PairScored, ScoreRequest, Terminal

if TYPE_CHECKING:
    from hand_loop import HandLoop


def check_pair_end(hand: "HandLoop", request: ScoreRequest, event: Terminal) -> None:
    """The pencil's scores, or a reason for there being none."""
    pair = request.pair
    if isinstance(event, PairScored):
        tokens = pair.target[pair.prompt :]
        expected = scores(pair.source, pair.target[: pair.prompt], tokens)
        assert event.log_probs == expected, f"not the pencil's scores of {request}"
        assert abs(event.alignment - attention(len(pair.source), len(tokens))).max() < 1e-6
        assert request.deadline is None or event.times.arrival < request.deadline
    elif isinstance(event, Finished):
        assert event.reason in (FinishReason.CANCELLED, FinishReason.DEADLINE)
        assert event.reason is not FinishReason.CANCELLED or request.id in hand.cancelled
        assert event.hypotheses[0].token_ids == []
        if event.reason is FinishReason.DEADLINE:
            assert request.deadline is not None
            assert request.deadline <= (event.times.ended or 0.0), "the deadline was declared too early"
    else:
        assert event.engine_stopped or {hand.engine.poison, hand.engine.nan} & {*pair.source}, "an innocent pair failed"


def check_turn(
    hand: "HandLoop", fresh: Sequence[Event], encoded: Sequence[object], scored: Sequence[Sequence[Pair]]
) -> None:
    """What one step may score, and in which order."""
    assert not (encoded and scored), "running rows wait for an encoder batch and for pairs"
    pairs = [pair for batch in scored for pair in batch]
    cost = sum(len(pair.source) + 3 * len(pair.target) for pair in pairs)
    assert len(pairs) <= 1 or cost <= hand.limits.encode_tokens, "running rows wait for more than one budget of pairs"
    for batch in scored:
        for lengths in ([len(pair.source) for pair in batch], [len(pair.target) for pair in batch]):
            blocks = [math.ceil(length / 16) for length in lengths]
            assert max(blocks) <= 2 * min(blocks), "a short pair pays for a long one"
    ended = [event.request_id for event in fresh if isinstance(event, PairScored)]
    # The others of a turn go on when a pass of it raises.
    waiting = [number for number in hand.open if number in hand.pairs.keys() - hand.scheduler.pairs._suspects]
    assert max(ended, default=-1) < min(waiting, default=1 << 62), "a pair was overtaken in the queue"
    broken = [event for event in fresh if isinstance(event, Failed) and event.message == "the scorer failed"]
    assert len(broken) <= 1, "one bad pair fails others"
