"""Who may enter, and what those who may not are told."""

import dataclasses
from typing import Any

import pytest

from arithmetic_engine import END, START
from hand_loop import make_limits
from seqserve.bundle import ModelDescription
from seqserve.search_defaults import SearchDefaults
from seqserve_server.admission import Resolved, check_complete, check_memory, complete_source, resolve_options
from seqserve_server.decoding.search import SearchSettings, Stopping
from seqserve_server.errors import InputTooLong, InvalidRequest
from seqserve_server.request import Request
from seqserve_server.search_options import Options, most_beams, resolve_search, search_defaults
from serving import describe

MODEL = describe(max_target_length=64, default_max_new_tokens=40, default_min_new_tokens=2)
FRAME = MODEL.framing.frame()
BEAMS = dataclasses.replace(
    MODEL, search=SearchDefaults(beam_size=4, length_penalty=0.6, patience=2.0, stopping="patience")
)


@pytest.mark.parametrize(("options", "expected"), [
    (Options(), (40, 2)),
    (Options(7), (7, 2)),
    (Options(1), (1, 1)),
    (Options(None, 50), (50, 50)),
    (Options(64, 64), (64, 64)),
    (Options(5, 0), (5, 0)),
])
def test_unset_options_take_defaults_that_never_contradict_the_caller(
    options: Options, expected: tuple[int, int]
) -> None:
    assert resolve_options(options, MODEL, 32) == Resolved(SearchSettings(END, *expected), FRAME)


def test_forced_tokens_of_the_prompt_leave_fewer_places_for_new_ones() -> None:
    model = dataclasses.replace(MODEL, decoder_prompt=(START, 5, 6))
    assert resolve_search(Options(62), model, 32).max_new_tokens == 62
    with pytest.raises(InvalidRequest, match=r"63 is outside 1\.\.62"):
        resolve_search(Options(63), model, 32)


@pytest.mark.parametrize(("options", "field", "said"), [
    (Options(0), "max_new_tokens", "0 is outside 1..64"),
    (Options(-3), "max_new_tokens", "-3 is outside 1..64"),
    (Options(65), "max_new_tokens", "65 is outside 1..64"),
    (Options(None, -1), "min_new_tokens", "-1 is outside 0..64"),
    (Options(None, 65), "min_new_tokens", "65 is outside 0..64"),
    (Options(3, 4), "min_new_tokens", "4 is over options.max_new_tokens 3"),
])
def test_a_bad_option_is_named_with_its_value_and_limit(options: Options, field: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        resolve_options(options, MODEL, 32)
    assert caught.value.field == f"options.{field}"


SEARCHES: list[tuple[Options, dict[str, Any]]] = [
    (Options(), {}),
    (Options(beam_size=1), {"beam_size": 1}),
    (Options(beam_size=32), {"beam_size": 32}),
    (Options(num_hypotheses=4), {"num_hypotheses": 4}),
    (Options(beam_size=6, num_hypotheses=6), {"beam_size": 6, "num_hypotheses": 6}),
    (Options(length_penalty=0.0), {"length_penalty": 0.0}),
    (Options(length_penalty=-10.0), {"length_penalty": -10.0}),
    (Options(length_penalty=10), {"length_penalty": 10.0}),
    (Options(patience=10.0), {"patience": 10.0}),
    (Options(patience=0.5, stopping=Stopping.PATIENCE), {"patience": 0.5}),
    (Options(stopping=Stopping.FULL), {"stopping": Stopping.FULL}),
    (Options(stopping=Stopping.EXHAUSTIVE), {"stopping": Stopping.EXHAUSTIVE}),
    (Options(3, 2, beam_size=2), {"max_new_tokens": 3, "min_new_tokens": 2, "beam_size": 2}),
]


@pytest.mark.parametrize(("options", "changes"), SEARCHES)
def test_an_unset_search_option_is_the_bundles(options: Options, changes: dict[str, Any]) -> None:
    bundles = SearchSettings(END, 40, 2, False, 4, 1, 0.6, 2.0, Stopping.PATIENCE)
    assert resolve_search(options, BEAMS, 32) == dataclasses.replace(bundles, **changes)


def test_the_end_token_and_whether_it_is_forced_are_the_models() -> None:
    settings = resolve_search(Options(), dataclasses.replace(MODEL, eos_id=7, forced_end=True), 32)
    assert (settings.end_id, settings.forced_end) == (7, True)


def test_patience_alone_implies_the_rule_that_has_it() -> None:
    assert resolve_search(Options(), MODEL, 32).stopping is Stopping.HEURISTIC
    settings = resolve_search(Options(beam_size=2, patience=1.5), MODEL, 32)
    assert (settings.stopping, settings.patience) == (Stopping.PATIENCE, 1.5)


@pytest.mark.parametrize(("model", "options", "field", "said"), [
    (BEAMS, Options(beam_size=0), "beam_size", "0 is outside 1..32"),
    (BEAMS, Options(beam_size=-1), "beam_size", "-1 is outside 1..32"),
    (BEAMS, Options(beam_size=33), "beam_size", "33 is outside 1..32"),
    (BEAMS, Options(num_hypotheses=0), "num_hypotheses", "0 is outside 1..options.beam_size 4"),
    (BEAMS, Options(num_hypotheses=-2), "num_hypotheses", "-2 is outside 1..options.beam_size 4"),
    (BEAMS, Options(num_hypotheses=5), "num_hypotheses", "5 is over options.beam_size 4 (the model's default)"),
    (MODEL, Options(num_hypotheses=3), "num_hypotheses", "3 is over options.beam_size 1 (the model's default)"),
    (MODEL, Options(beam_size=2, num_hypotheses=3), "num_hypotheses", "3 is over options.beam_size 2"),
    (MODEL, Options(length_penalty=10.5), "length_penalty", "10.5 is outside -10..10"),
    (MODEL, Options(length_penalty=-11.0), "length_penalty", "-11.0 is outside -10..10"),
    (MODEL, Options(length_penalty=float("nan")), "length_penalty", "nan is outside -10..10"),
    (MODEL, Options(length_penalty=float("-inf")), "length_penalty", "-inf is outside -10..10"),
    (MODEL, Options(patience=0.0), "patience", "0.0 is not over 0 and at most 10"),
    (MODEL, Options(patience=-1.0), "patience", "-1.0 is not over 0 and at most 10"),
    (MODEL, Options(patience=10.5), "patience", "10.5 is not over 0 and at most 10"),
    (MODEL, Options(patience=float("nan")), "patience", "nan is not over 0 and at most 10"),
    (MODEL, Options(patience=float("inf")), "patience", "inf is not over 0 and at most 10"),
    (BEAMS, Options(patience=2.0, stopping=Stopping.FULL), "patience",
     "2 means nothing to options.stopping full, only to patience"),
    (MODEL, Options(patience=1.0, stopping=Stopping.HEURISTIC), "patience",
     "1 means nothing to options.stopping heuristic, only to patience"),
])
def test_a_bad_search_option_is_named_with_its_value_and_limit(
    model: ModelDescription, options: Options, field: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve_options(options, model, 32)
    assert str(caught.value) == f"options.{field}: {said}"
    assert caught.value.field == f"options.{field}"


def test_a_beam_has_no_more_hypotheses_than_the_engine_has_rows() -> None:
    assert (most_beams(1), most_beams(8), most_beams(64)) == (1, 8, 32)
    assert resolve_search(Options(beam_size=3), BEAMS, 3).beam_size == 3
    with pytest.raises(InvalidRequest, match=r"4 is outside 1\.\.3"):
        resolve_search(Options(beam_size=4), BEAMS, 3)
    assert resolve_search(Options(), BEAMS, 3).beam_size == 3, "a default takes what there is"
    assert search_defaults(BEAMS, 3) == dataclasses.replace(BEAMS.search, beam_size=3)
    with pytest.raises(InvalidRequest, match=r"4 is over options\.beam_size 3 \(the model's default\)"):
        resolve_search(Options(num_hypotheses=4), BEAMS, 3)


def test_special_tokens_are_put_around_the_content() -> None:
    model = dataclasses.replace(MODEL, source_prefix=(9, 8))
    assert complete_source([5, 6], model, model.framing.frame(), "input") == (9, 8, 5, 6, END)


@pytest.mark.parametrize(("content", "field"), [([], "x"), ([-1], "x[0]"), ([3, 29], "x[1]"), ([3, 2**31 - 1], "x[1]")])
def test_content_that_is_empty_or_unknown_is_refused(content: list[int], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        complete_source(content, MODEL, FRAME, "x")
    assert caught.value.field == field


def test_the_source_limit_counts_special_tokens_and_is_exact() -> None:
    assert len(complete_source([3] * 31, MODEL, FRAME, "x")) == MODEL.max_source_length == 32
    with pytest.raises(InputTooLong, match=r"33 tokens.*limit of 32") as caught:
        complete_source([3] * 32, MODEL, FRAME, "x")
    assert (caught.value.count, caught.value.limit) == (33, 32)


@pytest.mark.parametrize(("source", "field"), [((), "x"), ((3, -1), "x[1]"), ((29,), "x[0]"), ((3,) * 33, "x")])
def test_a_complete_source_is_held_to_the_same_limits(source: tuple[int, ...], field: str) -> None:
    check_complete((3,) * 32, MODEL, "x")
    with pytest.raises(InvalidRequest) as caught:
        check_complete(source, MODEL, "x")
    assert caught.value.field == field


def request(source: int, prompt: int, max_new_tokens: int) -> Request:
    return Request(0, (3,) * source, (START,) * prompt, SearchSettings(END, max_new_tokens))


def test_what_could_never_fit_the_memory_is_refused_at_the_door() -> None:
    limits = make_limits(cache_bytes=8 * (16 + 8 * 32 + 4 * 32))
    check_memory(request(32, 1, 32), limits)
    check_memory(request(32, 3, 30), limits)
    with pytest.raises(InvalidRequest, match="over the budget of 3200") as caught:
        check_memory(request(32, 1, 33), limits)
    assert caught.value.field == "options.max_new_tokens"
    with pytest.raises(InvalidRequest, match="over the budget of 3200"):
        check_memory(request(32, 3, 31), limits)


def test_a_beam_needs_rows_and_a_graph_with_places_for_it() -> None:
    limits, wide = make_limits(max_rows=4), Request(0, (3,), (START,), SearchSettings(END, 5, beam_size=5))
    with pytest.raises(InvalidRequest, match="5 rows are over the 4 of this server") as caught:
        check_memory(wide, limits)
    assert caught.value.field == "options.beam_size"
    check_memory(wide, make_limits(max_rows=5))
    with pytest.raises(InvalidRequest, match="5 hypotheses: this bundle's graph has no places") as caught:
        check_memory(wide, dataclasses.replace(make_limits(), widths=(1,), beams=False))
    assert caught.value.field == "options.beam_size"
    check_memory(request(3, 1, 5), dataclasses.replace(make_limits(), widths=(1,), beams=False))
    check_memory(wide, dataclasses.replace(make_limits(), widths=(1,)))
