"""One thread for the loops of several models: turns, errands, coming and going, and what callers are owed."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import END, START, ArithmeticEngine, answer
from hand_loop import make_limits
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import Candidates, StepInput
from seqserve_server.engine_thread import Runner
from seqserve_server.errors import EngineStopped
from seqserve_server.loop import STOPPED, Loop
from seqserve_server.request import Event, Failed, Finished, Request
from seqserve_server.scheduler import Scheduler

SOURCE = (5, 6, END)


class NotedEngine(ArithmeticEngine):
    """Writes its name into a list at every step."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self.name, self.order = name, order

    def step(self, step: StepInput) -> Candidates:
        self.order.append(self.name)
        return super().step(step)


class Model:
    """An engine, its loop, and what was published."""

    def __init__(self, name: str, order: list[str], max_rows: int = 2) -> None:
        self.engine = NotedEngine(name, order)
        self.events: list[Event] = []
        self.loop = Loop(self.engine, Scheduler(make_limits(max_rows=max_rows)), self.events.extend)
        self.submitted = 0

    def submit(self, count: int = 1, most: int = 4) -> None:
        """Requests with ids that go on counting."""
        for _ in range(count):
            self.submitted += 1
            self.loop.submit([Request(self.submitted, SOURCE, (START,), SearchSettings(END, most))])

    @property
    def ends(self) -> Counter[int]:
        """How many terminal events each request has had."""
        return Counter(event.request_id for event in self.events if isinstance(event, Finished | Failed))


def turned(runner: Runner, *models: Model) -> None:
    """The runner on this thread, until the models have nothing to do any more."""
    def waiting() -> Iterator[None]:
        while any(model.loop.busy for model in models):
            yield
        runner.stop()

    runner.work(waiting())
    runner.run()


def test_models_with_work_have_one_iteration_each_in_turn() -> None:
    order: list[str] = []
    runner, models = Runner(), [Model(name, order) for name in "abc"]
    for model, steps in zip(models, (6, 3, 0), strict=True):
        runner.add(model.loop)
        if steps:
            model.submit(most=steps)
    turned(runner, *models)
    assert "".join(order) == "abababaaa"
    assert [len(model.events) for model in models] == [1, 1, 0]


def test_a_model_with_much_work_does_not_hold_up_another() -> None:
    order: list[str] = []
    runner, heavy, light = Runner(), Model("h", order, max_rows=1), Model("l", order)
    runner.add(heavy.loop)
    runner.add(light.loop)
    heavy.submit(count=30, most=5)
    light.submit(most=4)
    turned(runner, heavy, light)
    assert order[:8] == ["h", "l"] * 4


def test_an_errand_is_done_in_parts_between_steps() -> None:
    order: list[str] = []
    runner, model = Runner(), Model("s", order)

    def errand() -> Iterator[None]:
        for _ in range(3):
            order.append("e")
            yield

    runner.add(model.loop)
    model.submit(most=5)
    done = runner.work(errand())
    turned(runner, model)
    assert "".join(order) == "esesesss"
    assert done.result() is None


def test_what_an_errand_raises_is_told_and_ends_nothing() -> None:
    order: list[str] = []
    runner, model = Runner(), Model("s", order)
    runner.add(model.loop)
    model.submit()

    def errand() -> Iterator[None]:
        yield
        raise SystemError("a broken engine")

    done, gone = runner.work(errand()), runner.call(lambda: order.append("never"))
    assert gone.cancel()
    turned(runner, model)
    assert isinstance(done.exception(), SystemError)
    assert model.ends == {1: 1}
    assert "never" not in order


def test_a_model_comes_and_goes_while_others_run() -> None:
    runner, stays, goes = Runner(), Model("s", []), Model("g", [], max_rows=1)
    runner.add(stays.loop)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    try:
        runner.add(goes.loop).result(60)
        goes.submit(count=2, most=3)
        runner.remove(goes.loop).result(60)
        assert goes.ends == {1: 1, 2: 1}
        goes.submit()  # to a loop that nobody steps any more
        assert goes.ends[3] == 1
        runner.remove(goes.loop).result(60)  # once more changes nothing
        stays.submit()
        while not stays.events:
            pass
    finally:
        runner.stop()
        thread.join(60)
    assert isinstance(stays.events[0], Finished)


def test_when_one_engine_dies_callers_of_every_model_are_told_and_errands_too() -> None:
    runner, dead, alive = Runner(), Model("d", []), Model("a", [])
    for model in (dead, alive):
        runner.add(model.loop)
        model.submit(count=3)
    endless = runner.work(iter(lambda: None, 1))
    dead.engine.out_of_memory = True
    with pytest.raises(MemoryError):
        runner.run()
    for model in (dead, alive):
        assert model.ends == {1: 1, 2: 1, 3: 1}
        assert all(event == Failed(event.request_id, STOPPED, engine_stopped=True) for event in model.events)
    assert isinstance(endless.exception(), EngineStopped)
    late, later = runner.call(lambda: None), Model("l", [])
    assert isinstance(late.exception(), EngineStopped)
    assert isinstance(runner.add(later.loop).exception(), EngineStopped)
    later.submit()
    assert later.ends == {1: 1}


def test_one_that_cannot_be_closed_costs_the_others_nothing() -> None:
    runner, broken, other = Runner(), Model("b", []), Model("o", [])
    for model in (other, broken):
        runner.add(model.loop)
        model.submit()
    def publish(events: list[Event]) -> None:
        raise ZeroDivisionError

    broken.loop._publish = publish
    with pytest.raises(ZeroDivisionError):
        turned(runner, broken)
    assert other.ends == {1: 1}


@given(st.lists(st.sampled_from(["submit", "cancel", "swap", "step", "die"]), max_size=40))
def test_with_swaps_in_between_every_request_has_exactly_one_end(moves: list[str]) -> None:
    """Versions come and go at any time; the engine thread may end at any time."""
    runner, versions = Runner(), [Model("0", [])]
    runner.add(versions[0].loop)
    runner.work(played(moves, runner, versions))
    try:
        runner.run()
    except MemoryError:
        assert "die" in moves
    for model in versions:
        assert model.ends == dict.fromkeys(range(1, model.submitted + 1), 1)
        assert not model.engine.misuses
        for event in model.events:
            if isinstance(event, Finished) and event.reason.value == "length":
                assert event.token_ids == answer(SOURCE, 5)[0]


def played(moves: list[str], runner: Runner, versions: list[Model]) -> Iterator[None]:
    """An errand that does the moves to the newest version, and ends when the last two have nothing to do."""
    for move in moves:
        current = versions[-1]
        if move == "submit":
            current.submit(count=2, most=5)
        elif move == "cancel":
            current.loop.cancel(range(1, current.submitted + 1, 3))
        elif move == "swap":
            versions.append(Model(str(len(versions)), []))
            runner.add(versions[-1].loop)
            if len(versions) > 2:  # one that may have work yet: its callers are told
                runner.remove(versions[-3].loop)
        elif move == "die":
            current.engine.out_of_memory = True
        else:
            yield
    while any(model.loop.busy for model in versions[-2:]):
        yield
    runner.stop()
