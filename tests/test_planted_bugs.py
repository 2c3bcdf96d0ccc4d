"""Whether the rules of the simulation would see a scheduler with a fault: each fault here is seen."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hand_loop import make_limits
from seqserve_server.decoding.search import Hypothesis
from seqserve_server.engine import Changes, Layout, PlaceRelease, RowCopy, RowMove, RowRelease
from seqserve_server.plan import Applied, Plan, Running
from seqserve_server.request import Event, Finished, FinishReason, Request, ScoreRequest, TokensChosen
from seqserve_server.scheduler import Scheduler
from simulation import Simulation, adversarial

Ids = Sequence[Sequence[int]]
LogProbs = Sequence[Sequence[float]]
Logits = NDArray[np.float32] | None
LIMITS = make_limits(max_rows=16, encode_tokens=64)


class Altered(Scheduler):
    """Plans well, then something is changed."""

    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        return replace(
            plan, changes=self.changes(plan.changes), copies=self.copies(plan.copies), layout=self.layout(plan.layout)
        )

    def changes(self, changes: Changes) -> Changes:
        return changes

    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return copies

    def layout(self, layout: Layout) -> Layout:
        return layout


class ForgetsToReleaseRows(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, release_rows=[])


class ForgetsToReleasePlaces(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, release_places=[])


class ReleasesTooLittle(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, release_rows=[RowRelease(each.row, each.length - 2) for each in changes.release_rows])


class ReleasesTooLittleOfASource(Altered):
    def changes(self, changes: Changes) -> Changes:
        released = [PlaceRelease(each.place, each.length - 1) for each in changes.release_places]
        return replace(changes, release_places=released)


class MovesTheWrongRow(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, move_rows=[replace(each, source=each.source - 1) for each in changes.move_rows])


class MovesTooLittle(Altered):
    def changes(self, changes: Changes) -> Changes:
        moves = [RowMove(each.source, each.destination, max(each.length - 1, 0)) for each in changes.move_rows]
        return replace(changes, move_rows=moves)


class ForgetsToMoveRows(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, move_rows=[])


class ForgetsToMovePlaces(Altered):
    def changes(self, changes: Changes) -> Changes:
        return replace(changes, move_places=[])


class ForgetsToCopy(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return []


class CopiesFromOneTooLate(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return [replace(each, start=each.start + 1) for each in copies]


class CopiesEverythingAlways(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return [replace(each, start=0) for each in copies]


class CopiesOneTooFew(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return [replace(each, end=each.end - 1) for each in copies]


class CopiesTheOtherWay(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return [replace(each, source=each.destination, destination=each.source) for each in copies]


class CopiesFromItsNeighbour(Altered):
    def copies(self, copies: list[RowCopy]) -> list[RowCopy]:
        return [replace(each, source=each.source + 1) for each in copies]


class ReadsTheNeighboursPlace(Altered):
    def layout(self, layout: Layout) -> Layout:
        return replace(layout, places=[max(place - 1, 0) for place in layout.places])


class PutsTwoRowsAtOneOffset(Altered):
    def layout(self, layout: Layout) -> Layout:
        return replace(layout, offsets=[0] * len(layout.offsets))


class CountsPlacesShort(Altered):
    def layout(self, layout: Layout) -> Layout:
        return replace(layout, counts=[max(count - 1, 0) for count in layout.counts])


class KeepsTheFirstLayoutOfSoManyRows(Scheduler):
    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        known: dict[int, Layout] = self.__dict__.setdefault("known", {})
        return replace(plan, layout=known.setdefault(len(plan.tokens), plan.layout))


class EndsTwice(Scheduler):
    def apply(self, token_ids: Ids, log_probs: LogProbs, logits: Logits, now: float) -> Applied:
        applied = super().apply(token_ids, log_probs, logits, now)
        applied.events += [event for event in applied.events if isinstance(event, Finished)]
        return applied


class SpeaksAfterTheEnd(Scheduler):
    def apply(self, token_ids: Ids, log_probs: LogProbs, logits: Logits, now: float) -> Applied:
        applied = super().apply(token_ids, log_probs, logits, now)
        applied.events.sort(key=lambda event: isinstance(event, TokensChosen))
        return applied


class TellsTheBestSoFar(Scheduler):
    def apply(self, token_ids: Ids, log_probs: LogProbs, logits: Logits, now: float) -> Applied:
        applied = super().apply(token_ids, log_probs, logits, now)
        applied.events = [event for event in applied.events if not isinstance(event, TokensChosen)]
        for running in self._running.values():
            if running.request.stream and running.search.so_far().token_ids:
                applied.events.append(TokensChosen(running.request.id, running.search.so_far().token_ids[-1:]))
        return applied


class SwapsRows(Scheduler):
    def apply(self, token_ids: Ids, log_probs: LogProbs, logits: Logits, now: float) -> Applied:
        return super().apply(token_ids[::-1], log_probs[::-1], logits, now)


class CountsATokenForEachHypothesis(Scheduler):
    def apply(self, token_ids: Ids, log_probs: LogProbs, logits: Logits, now: float) -> Applied:
        applied = super().apply(token_ids, log_probs, logits, now)
        return replace(applied, tokens=len(token_ids))


class ForgetsTheEnd(Scheduler):
    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        return super().cancel(request_id, now, reason)[:0]


class LetsTheLastInFirst(Scheduler):
    def submit(self, request: Request | ScoreRequest) -> None:
        super().submit(request)
        if isinstance(request, Request):
            line = self._waiting._line_of[request.id]
            line.waiting.move_to_end(request.id, last=False)


class IgnoresDeadlines(Scheduler):
    def _expire(self, now: float) -> list[Event]:
        return []


class EndsTooEarly(Scheduler):
    def submit(self, request: Request | ScoreRequest) -> None:
        early = None if request.deadline is None else request.deadline - 0.02
        super().submit(replace(request, deadline=early))


class KeepsTheRowsOfACancelledRequest(Scheduler):
    def cancel(self, request_id: int, now: float, reason: FinishReason = FinishReason.CANCELLED) -> list[Event]:
        if request_id in self._running:
            running = self._running[request_id]
            return [Finished(request_id, reason, [running.search.so_far()], replace(running.times, ended=now))]
        return super().cancel(request_id, now, reason)


class CleansOnlyTheFirstPlace(Scheduler):
    def _leave(self, running: Running) -> None:
        super()._leave(running)
        for place in running.places[1:]:
            del self._dirty_places[place]


class EncodesWithoutBound(Scheduler):
    def plan(self, now: float) -> Plan:
        self._limits = replace(self._limits, encode_tokens=1 << 30)
        return super().plan(now)


class AllowsTooManyRows(Scheduler):
    def plan(self, now: float) -> Plan:
        self._limits = replace(self._limits, max_rows=17)
        return super().plan(now)


class RunsOneBatchAtATime(Scheduler):
    def _admit(self, now: float, ended: list[Event]) -> list[Running]:
        return [] if self._running else super()._admit(now, ended)


class CountsOneTooMany(Scheduler):
    def plan(self, now: float) -> Plan:
        plan = super().plan(now)
        return replace(plan, positions=[position + 1 for position in plan.positions])


class AsksForTooFewCandidates(Scheduler):
    def plan(self, now: float) -> Plan:
        return replace(super().plan(now), candidates=3)


class ReturnsOnlyTheBest(Scheduler):
    def _finish(
        self, running: Running, reason: FinishReason, hypotheses: list[Hypothesis], now: float
    ) -> Finished:
        return super()._finish(running, reason, hypotheses[:1], now)


BUGS: dict[type[Scheduler], str] = {
    ForgetsToReleaseRows: "not empty|not cleared|dirty rows",
    ForgetsToReleasePlaces: "not empty|not cleared|dirty places",
    ReleasesTooLittle: "is not empty after RowRelease",
    ReleasesTooLittleOfASource: "is not empty after",
    MovesTheWrongRow: "is not empty after RowRelease|rows hold|are the same already",
    MovesTooLittle: "is not empty after RowRelease|rows hold|are the same already",
    ForgetsToMoveRows: "rows hold|are the same already",
    ForgetsToMovePlaces: "nothing is in it|reads the place of somebody else|not cleared|dirty places",
    ForgetsToCopy: "rows hold",
    CopiesFromOneTooLate: "are the same already",
    CopiesEverythingAlways: "are the same already",
    CopiesOneTooFew: "RowCopy.* of ",
    CopiesTheOtherWay: "two copies into one row|a source is overwritten|between requests",
    CopiesFromItsNeighbour: "a source is overwritten|between requests",
    ReadsTheNeighboursPlace: "reads the place of somebody else|two rows at one offset",
    PutsTwoRowsAtOneOffset: "two rows at one offset",
    CountsPlacesShort: "has no place in",
    KeepsTheFirstLayoutOfSoManyRows: "reads the place of somebody else|no place in|nothing is in it|dirty places",
    EndsTwice: "after the terminal event",
    SpeaksAfterTheEnd: "the stream is not the answer|after the terminal event",
    TellsTheBestSoFar: "the stream is not",
    SwapsRows: "rows hold|not the pencil's answer",
    CountsATokenForEachHypothesis: "tokens emitted are not the tokens counted",
    ForgetsTheEnd: "is not what was submitted",
    LetsTheLastInFirst: "was overtaken",
    IgnoresDeadlines: "later than one iteration after its deadline",
    EndsTooEarly: "declared too early",
    KeepsTheRowsOfACancelledRequest: "belongs to a request that has ended",
    CleansOnlyTheFirstPlace: "not empty|not cleared|dirty places",
    EncodesWithoutBound: "more than one encoder budget",
    AllowsTooManyRows: "more rows than allowed",
    RunsOneBatchAtATime: "a row stayed empty",
    CountsOneTooMany: "rows hold",
    AsksForTooFewCandidates: "not the pencil's answer|rows hold",
    ReturnsOnlyTheBest: "not the pencil's answer",
}


@pytest.mark.parametrize(("bug", "symptom"), BUGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_bug_is_found(bug: type[Scheduler], symptom: str) -> None:
    with pytest.raises(AssertionError, match=symptom):
        Simulation(LIMITS, bug).play(adversarial(0, 800))


def test_where_copies_end_in_common_is_found_if_it_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Running, "_note_copy", lambda running, source, lane: None)
    with pytest.raises(AssertionError, match="are the same already"):
        Simulation(LIMITS).play(adversarial(0, 800))


def test_nothing_is_found_where_nothing_is_planted() -> None:
    Simulation(LIMITS, Altered).play(adversarial(0, 800))
