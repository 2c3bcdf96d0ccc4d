"""Who is suspected after unclean ends, who runs, and who is refused: rules over whole histories of processes."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_server.custody import Custody, Watch
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.request import Finished, FinishReason, Request, Times
from seqserve_server.scheduler import NOTHING
from seqserve_server.suspects import MOST_ENDS, REFUSED_AT, Record, Suspects, after_unclean_end

PLACES = 3  # of an engine
MOST = 64


def name(text: int) -> bytes:
    return bytes([text + 1]) * 16


@dataclass
class Book:
    """A journal without a file."""

    records: dict[bytes, Record] = field(default_factory=dict)
    slots: dict[int, bytes] = field(default_factory=dict)
    count: int = 0
    ends: int = 0

    def enter(self, digest: bytes) -> int:
        self.count += 1
        self.slots[self.count] = digest
        return self.count

    def leave(self, slot: int) -> None:
        del self.slots[slot]

    def forget(self, digest: bytes) -> None:
        self.records.pop(digest, None)

    def end(self) -> None:
        """Uncleanly."""
        self.ends += 1
        self.records = after_unclean_end(self.records, self.slots.values(), self.ends, MOST)
        self.slots.clear()


@dataclass
class Model:
    """One loop: a custody, a queue and an engine."""

    custody: Custody
    queue: list[Request] = field(default_factory=list)
    engine: dict[int, int] = field(default_factory=dict)  # id -> steps that are left


@dataclass
class World:
    """Callers who try again until they have an answer or are refused, and a supervisor that starts processes anew.

    A guilty text crashes the process some steps after it comes into the engine; strangers kill some processes too.
    """

    rng: random.Random
    guilty: set[int]
    pending: list[int]
    kills: int
    book: Book = field(default_factory=Book)
    crashes: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)

    def run(self) -> int:
        """Processes until nobody waits any more; returns how many ended uncleanly."""
        for _ in range(200):
            if not self.pending:
                return self.book.ends
            self.process()
        raise AssertionError(f"the service does not come back: {self.book}")

    def process(self) -> None:
        suspects = Suspects(self.book.records)
        self.models = [Model(Custody(Watch(suspects, self.book))) for _ in range(2)]
        self.texts: dict[int, int] = {}
        self.rng.shuffle(self.pending)
        for number, text in enumerate(list(self.pending)):
            request = Request(number, (text,), (), SearchSettings(1, 8), digest=name(text))
            if suspects.is_refused(request.digest):
                self.refused.add(text)
                self.pending.remove(text)
                continue
            self.texts[number] = text
            model = self.models[text % 2]
            if model.custody.passes(request):
                model.queue.append(request)
        while any(model.queue or model.engine or len(model.custody) for model in self.models):
            if self.kills and self.rng.random() < 0.1:
                self.kills -= 1
                self.book.end()
                return
            if any(self.step(model, suspects) for model in self.models):
                self.book.end()
                return

    def step(self, model: Model, suspects: Suspects) -> bool:
        """Whether it crashes."""
        released, _ = model.custody.due(0.0)
        model.queue += [request for request in released if isinstance(request, Request)]
        while model.queue and len(model.engine) < PLACES:
            request = model.queue.pop(self.rng.randrange(len(model.queue)))
            model.engine[request.id] = self.rng.randint(1, 4)
            model.custody.enter([request.id])
        inside = [self.texts[number] for each in self.models for number in each.engine]
        assert sum(suspects.is_suspect(name(text)) for text in inside) <= 1, "two suspects in the engine"
        assert sorted(self.book.slots.values()) == sorted(map(name, inside)), "notes are wrong"
        for number in list(model.engine):
            text = self.texts[number]
            model.engine[number] -= 1
            if text in self.guilty and (not model.engine[number] or self.rng.random() < 0.5):
                self.crashes[text] = self.crashes.get(text, 0) + 1
                return True
            if not model.engine[number]:
                del model.engine[number]
                model.custody.ended([Finished(number, FinishReason.EOS, [NOTHING], Times(0.0))])
                self.pending.remove(text)
                self.answered.add(text)
        return False


worlds = st.builds(
    World, st.randoms(use_true_random=False), st.sets(st.integers(0, 11), max_size=3),
    st.lists(st.integers(0, 11), min_size=1, max_size=20), st.integers(0, 3),
)


@given(worlds)
def test_the_service_comes_back_and_nobody_crashes_it_three_times(world: World) -> None:
    kills, asked = world.kills, set(world.pending)
    ends = world.run()
    assert all(count <= REFUSED_AT for count in world.crashes.values())
    assert ends <= REFUSED_AT * len(world.guilty & asked) + kills - world.kills
    assert world.answered.isdisjoint(world.guilty)
    assert world.guilty & asked <= world.refused
    assert world.answered | world.refused == asked


@given(worlds, st.integers(0, 11))
def test_the_innocent_are_answered_where_one_is_guilty(world: World, guilty: int) -> None:
    world.guilty, world.kills = {guilty}, 0
    world.run()
    assert world.refused <= {guilty}


@given(worlds, st.integers(0, 11))
def test_one_end_that_was_nobodys_fault_refuses_nobody(world: World, seed: int) -> None:
    world.guilty, world.kills = set(), 1
    world.run()
    assert world.refused == set()


def test_suspects_that_do_not_wait_for_one_another_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspects, "take_turn", lambda self: True)
    with pytest.raises(AssertionError, match="two suspects"):
        test_the_innocent_are_answered_where_one_is_guilty()


def test_custody_that_clears_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: whoever was in the engine twice is refused, whatever it did in between."""
    monkeypatch.setattr(Suspects, "clear", lambda self, digest: None)
    monkeypatch.setattr(Book, "forget", lambda self, digest: None)
    kinds = []
    for seed in range(200):
        rng = random.Random(seed)
        world = World(rng, {3}, [rng.randrange(12) for _ in range(12)], 0)
        for _ in range(3):  # the same callers come again and again
            again = list(world.pending)
            world.run()
            world.pending = again
            world.guilty = {(min(world.guilty) + 1) % 12}
        kinds.append(world.refused - {3, 4, 5})
    assert any(kinds)


def test_the_same_end_told_twice_counts_once() -> None:
    once = after_unclean_end({}, [name(1), name(1), name(2)], 7, MOST)
    assert once == {name(1): Record(1, 7), name(2): Record(1, 7)}
    assert after_unclean_end(once, [name(1)], 7, MOST) == once
    assert after_unclean_end(once, [name(1)], 8, MOST)[name(1)] == Record(2, 8)


def test_what_is_forgotten_first_is_old_and_not_refused() -> None:
    known = {name(0): Record(2, 1), name(1): Record(1, 2), name(2): Record(1, 3)}
    found = after_unclean_end(known, [name(3)], 4, 3)
    assert found.keys() == {name(0), name(2), name(3)}
    assert after_unclean_end(found, [name(2)], 5, 2) == {name(0): Record(2, 1), name(2): Record(2, 5)}


def test_numbers_of_ends_wrap_around() -> None:
    known = {name(0): Record(1, MOST_ENDS - 1), name(1): Record(1, MOST_ENDS)}
    assert name(0) not in after_unclean_end(known, [name(2)], 0, 2)
    assert after_unclean_end({name(0): Record(MOST_ENDS, 1)}, [name(0)], 2, 2) == {name(0): Record(MOST_ENDS, 2)}
