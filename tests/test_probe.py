"""Requests that fail one after the other do not end an engine that can still do what it is known to have done."""

from pathlib import Path
from typing import Any

import pytest

from arithmetic_engine import END, START, ArithmeticEngine
from play import real, requests, told
from seqserve_server.encoder_cache import EncoderCache
from seqserve_server.engine import Pair
from seqserve_server.isolation import MOST_ALONE, EngineBroken
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.request import Failed, Finished
from test_isolation import PENCIL_BAD, pencil_faults, run_to_its_end

EXAMPLE = Pair((5, END), (START, END), 1)


@pytest.mark.parametrize("kind", ["encode", "step", "score"])
def test_poison_after_poison_does_not_end_an_engine_that_passes_its_probe(kind: str) -> None:
    hand, faulty = pencil_faults(ArithmeticEngine(), EXAMPLE)
    if kind == "score":
        hand.engine.poison = PENCIL_BAD
    else:
        setattr(faulty, f"bad_{kind}", PENCIL_BAD)
    bad = []
    for place in range(5 * MOST_ALONE):
        source = [PENCIL_BAD, 3 + place % 20, END]
        bad.append(hand.submit_pair(source, [6, END]) if kind == "score" else hand.submit(source))
        hand.run()
    good = hand.submit([5, END])
    hand.run()
    assert all(isinstance(hand.ended[number], Failed) for number in bad)
    hand.finished(good)


def test_an_engine_that_does_not_pass_its_probe_is_given_up_after_as_many_as_before() -> None:
    hand, faulty = pencil_faults(ArithmeticEngine(), EXAMPLE)
    faulty.always = True
    for _ in range(MOST_ALONE - 1):
        hand.submit([5, END])
        hand.run()
    hand.submit([5, END])
    with pytest.raises(EngineBroken):
        run_to_its_end(hand.loop)


def test_the_probe_of_the_real_engine_runs_its_graphs_and_changes_nobodys_state(tiny_bundle: Path) -> None:
    play = real(tiny_bundle)
    engine = play.faulty.inner
    assert isinstance(engine, OrtEngine)
    engine.encoder_cache = EncoderCache(1 << 20)
    given = requests(8, 3)
    expected = real(tiny_bundle).run(given)
    runs: list[str] = []
    for name in ("_encoder", "_decoder", "_scorer"):
        vars(engine)[name] = _Noted(name, getattr(engine, name), runs)
    play.loop.submit(given)
    busy = True
    while busy:
        before, kept = engine.buffers, len(engine.encoder_cache)
        for _ in range(2):
            del runs[:]
            engine.probe(Pair((5, END), (2, END), 1))
            assert {"_encoder", "_decoder"} <= set(runs)
            assert ("_scorer" in runs) == engine.can_score
        assert (engine.buffers, len(engine.encoder_cache)) == (before, kept)
        busy = play.loop.step()
    found = {event.request_id: event for event in play.events if isinstance(event, Finished)}
    assert {number: told(event) for number, event in found.items()} == {
        number: told(event) for number, event in expected.items()
    }


class _Noted:
    """A session that tells of its runs."""

    def __init__(self, name: str, session: Any, runs: list[str]) -> None:
        self._name, self._session, self._runs = name, session, runs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("run"):
            self._runs.append(self._name)
        return getattr(self._session, name)
