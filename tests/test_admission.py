"""Who may enter, and what those who may not are told."""

import dataclasses

import pytest

from arithmetic_engine import END, START
from hand_loop import make_limits
from seqserve_server.admission import (
    Gate,
    Options,
    Resolved,
    check_complete,
    check_memory,
    complete_source,
    resolve_options,
)
from seqserve_server.errors import InputTooLong, InvalidRequest, QueueFull
from serving import describe

MODEL = describe(max_target_length=64, default_max_new_tokens=40, default_min_new_tokens=2)
FRAME = MODEL.framing.frame()


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
    assert resolve_options(options, MODEL) == Resolved(*expected, FRAME)


def test_forced_tokens_of_the_prompt_leave_fewer_places_for_new_ones() -> None:
    model = dataclasses.replace(MODEL, decoder_prompt=(START, 5, 6))
    assert resolve_options(Options(62), model).max_new_tokens == 62
    with pytest.raises(InvalidRequest, match=r"63 is outside 1\.\.62"):
        resolve_options(Options(63), model)


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
        resolve_options(options, MODEL)
    assert caught.value.field == f"options.{field}"


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


def test_what_could_never_fit_the_memory_is_refused_at_the_door() -> None:
    limits = make_limits(cache_bytes=8 * (16 + 8 * 32 + 4 * 32))
    check_memory(32, 1, 32, limits)
    check_memory(32, 3, 30, limits)
    with pytest.raises(InvalidRequest, match="over the budget of 3200") as caught:
        check_memory(32, 1, 33, limits)
    assert caught.value.field == "options.max_new_tokens"
    with pytest.raises(InvalidRequest, match="over the budget of 3200"):
        check_memory(32, 3, 31, limits)


def test_a_gate_lets_all_of_a_call_in_or_none() -> None:
    gate = Gate(5)
    gate.enter(3)
    with pytest.raises(QueueFull, match="3 requests do not fit: 2 of 5 places are free") as caught:
        gate.enter(3)
    assert caught.value.retry_after > 0
    assert gate.inside == 3
    gate.enter(2)
    gate.leave(5)
    assert gate.inside == 0
