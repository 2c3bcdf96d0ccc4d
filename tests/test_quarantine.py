"""From the door to the engine and back, with a journal: who waits, who is cleared, who is refused; loops by hand."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from arithmetic_engine import END, START, ArithmeticEngine
from hand_loop import make_limits, stepped
from seqserve_server.crash_journal import CrashJournal, open_journal
from seqserve_server.custody import Custody
from seqserve_server.decoding.search import Sampling, SearchSettings
from seqserve_server.dispatch import Dispatcher
from seqserve_server.engine import Heads, Pair
from seqserve_server.engine_thread import Runner
from seqserve_server.errors import DeadlineInQueue, EngineStopped, Quarantined
from seqserve_server.fingerprint import Fingerprint
from seqserve_server.gate import Gate, GateLimits
from seqserve_server.loop import Loop
from seqserve_server.quarantine import Quarantine
from seqserve_server.request import Finished, Request, ScoreRequest
from seqserve_server.scheduler import Scheduler

VERSION = "0123456789ab"
FIRST, SECOND, THIRD = (5, 6, END), (7, 8, END), (9, 10, END)


def request(source: tuple[int, ...] = FIRST, deadline: float | None = None) -> Request:
    return Request(0, source, (START,), SearchSettings(END, 40), deadline=deadline)


def pair(source: tuple[int, ...] = FIRST) -> ScoreRequest:
    return ScoreRequest(0, Pair(source, (START, 3, END), 1))


class Desk:
    """A dispatcher whose loop runs only when told, with the journal of a server."""

    def __init__(self, journal: CrashJournal, quarantine: Quarantine | None = None, version: str = VERSION) -> None:
        self.journal = journal
        self.quarantine = quarantine or Quarantine(journal)
        self.dispatcher = Dispatcher(Gate(GateLimits(64, 0)), self.quarantine.door("pencil", version))
        self.loop = Loop(
            ArithmeticEngine(), Scheduler(make_limits(max_rows=8)), self.dispatcher.publish,
            custody=Custody(self.quarantine.watch),
        )
        self.dispatcher.attach(self.loop)

    @property
    def running(self) -> list[tuple[int, ...]]:
        return [one.request.source for one in self.loop._scheduler._running.values()]

    @property
    def noted(self) -> int:
        """How many requests the file says are in the engine, copies as one."""
        return len(self.journal._read_slots())

    async def step(self, count: int = 1) -> None:
        await stepped(self.loop, count)


async def crash(path: Path, *requests: Request, steps: int = 2) -> None:
    """A process that ends with these in its engine."""
    with open_journal(path) as journal:
        desk = Desk(journal)
        calls = [asyncio.ensure_future(desk.dispatcher.generate([each])) for each in requests]
        await desk.step(steps)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_suspects_run_one_at_a_time_beside_others_and_are_cleared(tmp_path: Path) -> None:
    await crash(tmp_path / "j", request(FIRST), request(SECOND))
    with open_journal(tmp_path / "j") as journal:
        desk = Desk(journal)
        assert (desk.quarantine.suspected, desk.quarantine.refused) == (2, 0)
        sources = (FIRST, SECOND, FIRST, THIRD)
        calls = [asyncio.ensure_future(desk.dispatcher.generate([request(each)])) for each in sources]
        await desk.step(2)
        assert sorted(desk.running) == [FIRST, THIRD]
        assert desk.noted == 2
        seen = []
        while desk.loop.busy:
            await desk.step()
            assert len({FIRST, SECOND} & set(desk.running)) < 2 or desk.quarantine.suspected < 2
            seen.append(sorted(desk.running))
        assert [FIRST, SECOND] in seen, "one that was cleared by its first copy still waits"
        answers = [(await call)[0] for call in calls]
        assert all(isinstance(each, Finished) for each in answers)
        assert answers[0].token_ids == answers[2].token_ids
        assert (desk.noted, desk.quarantine.suspected) == (0, 0)
    with open_journal(tmp_path / "j") as journal:
        assert journal.records == {}


async def test_what_was_there_twice_is_refused_and_with_it_its_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await crash(tmp_path / "j", request(FIRST))
    with open_journal(tmp_path / "j") as journal:
        desk = Desk(journal)
        for _ in range(3):
            with pytest.raises(Quarantined) as raised:
                await desk.dispatcher.generate([request(SECOND), request(FIRST)])
            assert raised.value.place == 1
            with pytest.raises(Quarantined):
                await anext(desk.dispatcher.stream(request(FIRST)))
        assert desk.dispatcher.open_requests == 0
        assert not desk.loop.busy
        assert sum("is refused" in each.message for each in caplog.records) == 1
        other = Desk(journal, desk.quarantine, "fedcba987654")
        call = asyncio.ensure_future(other.dispatcher.generate([request(FIRST)]))
        await other.step(40)
        assert (await call)[0].token_ids, "another version of the model is another matter"


async def test_pairs_are_noted_held_and_cleared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path / "j") as journal:
        Desk(journal)
        for each in (FIRST, SECOND):
            journal.enter(Fingerprint(journal.salt, "pencil", VERSION).of(pair(each)))
    with open_journal(tmp_path / "j") as journal:
        desk = Desk(journal)
        entered: list[int] = []
        enter = journal.enter

        def counting(digest: bytes) -> int | None:
            entered.append(desk.noted)
            return enter(digest)

        monkeypatch.setattr(journal, "enter", counting)
        call = asyncio.ensure_future(desk.dispatcher.score([pair(FIRST), pair(SECOND), pair(THIRD)]))
        await desk.step(4)
        assert len(await call) == 3
        assert entered == [0, 1, 0], "both suspects were in one pass"
        assert (desk.quarantine.suspected, desk.noted) == (0, 0)


async def test_who_waits_for_a_turn_may_run_out_of_time_or_go_away(tmp_path: Path) -> None:
    await crash(tmp_path / "j", request(FIRST), request(SECOND), request(THIRD))
    with open_journal(tmp_path / "j") as journal:
        desk = Desk(journal)
        now = [0.0]
        desk.loop._clock = lambda: now[0]
        dispatcher = desk.dispatcher
        first = asyncio.ensure_future(dispatcher.generate([request(FIRST)]))
        late = asyncio.ensure_future(dispatcher.generate([request(SECOND, deadline=1e12)]))
        gone = asyncio.ensure_future(dispatcher.generate([request(THIRD)]))
        await desk.step()
        now[0] = 2e12
        gone.cancel()
        await desk.step()
        with pytest.raises(DeadlineInQueue):
            await late
        await desk.step(40)
        assert (await first)[0].token_ids
        assert dispatcher.open_requests == 0
        assert desk.quarantine.suspected == 2, "who did not run is still a suspect"


async def test_a_suspect_that_is_cut_off_is_not_cleared_and_gives_up_its_turn(tmp_path: Path) -> None:
    await crash(tmp_path / "j", request(FIRST), request(SECOND))
    with open_journal(tmp_path / "j") as journal:
        desk = Desk(journal)
        first = asyncio.ensure_future(desk.dispatcher.generate([request(FIRST)]))
        second = asyncio.ensure_future(desk.dispatcher.generate([request(SECOND)]))
        await desk.step(2)
        first.cancel()
        await desk.step(60)
        assert (await second)[0].token_ids
        assert desk.quarantine.suspected == 1


async def test_an_engine_that_ends_leaves_its_requests_noted_and_a_version_that_goes_does_not(tmp_path: Path) -> None:
    await crash(tmp_path / "j", request(SECOND), request(THIRD))
    with open_journal(tmp_path / "j") as journal:
        for lost in (False, True):
            desk = Desk(journal)
            calls = [
                asyncio.ensure_future(desk.dispatcher.generate([request(each)])) for each in (FIRST, SECOND, THIRD)
            ]
            await desk.step(2)
            assert desk.noted == 2
            runner = Runner()
            runner.add(desk.loop)
            runner._round()
            if not lost:
                runner.remove(desk.loop)
                runner._round()
                free = desk.quarantine.watch
                assert free is not None
                assert free.suspects.take_turn(), "a loop that has gone keeps the turn"
            else:
                runner._close()
            for call in calls:
                with pytest.raises(EngineStopped):
                    await call
            assert desk.noted == (2 if lost else 0)
    with open_journal(tmp_path / "j") as journal:
        assert sorted(record.ends for record in journal.records.values()) == [1, 1, 2]


async def test_two_models_have_one_turn(tmp_path: Path) -> None:
    await crash(tmp_path / "j", request(FIRST), request(SECOND))
    with open_journal(tmp_path / "j") as journal:
        one = Desk(journal)
        two = Desk(journal, one.quarantine)
        calls = [
            asyncio.ensure_future(desk.dispatcher.generate([request(source)]))
            for desk, source in ((one, FIRST), (two, SECOND))
        ]
        turns = set[tuple[bool, bool]]()
        while not all(call.done() for call in calls):
            await one.step()
            await two.step()
            turns.add((bool(one.running), bool(two.running)))
        assert turns >= {(True, False), (False, True)}
        assert (True, True) not in turns
        assert [len(await call) for call in calls] == [1, 1]


def test_what_counts_as_the_same_request() -> None:
    fingerprint, base = Fingerprint(b"salt", "m", "v"), request()
    search = base.search

    def same(other: Request | ScoreRequest, than: Request | ScoreRequest = base) -> bool:
        return fingerprint.of(other) == fingerprint.of(than)

    assert same(replace(base, id=7, arrival=3.0, deadline=4.0, stream=True, priority=5, tenant="gold"))
    assert same(replace(base, search=replace(search, sampling=Sampling(seed=4), repetition_penalty=1.3)))
    assert not same(replace(base, source=SECOND))
    assert not same(replace(base, prompt=(START, 4)))
    assert not same(replace(base, source=(START, *FIRST), prompt=()))
    assert not same(replace(base, search=replace(search, beam_size=4)))
    assert not same(replace(base, search=replace(search, max_new_tokens=4)))
    scored = pair()
    for changed in (
        Pair(SECOND, (START, 3, END), 1), Pair(FIRST, (START, 3, END), 2), Pair(FIRST, (START, 4, END), 1),
        Pair(FIRST, (START, 3, END), 1, Heads(0, None)), Pair(FIRST, (START, 3, END), 1, Heads(0, 0)),
    ):
        assert not same(replace(scored, pair=changed), scored)
    assert not same(scored)
    for salt, model, version in ((b"pepper", "m", "v"), (b"salt", "n", "v"), (b"salt", "m", "w")):
        assert Fingerprint(salt, model, version).of(base) != fingerprint.of(base)
