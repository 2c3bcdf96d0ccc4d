"""Kinds of requests by name, weight and number."""

from collections import Counter

import pytest

from seqserve_client.load_mix import STREAM, UNARY, Kind, kind_at, parse_mix


def test_names_say_what_a_kind_is() -> None:
    assert (UNARY.stream, UNARY.beam_size, STREAM.stream, STREAM.beam_size) == (False, None, True, None)
    assert Kind.named("beam4") == Kind("beam4", 1.0, False, 4)
    assert Kind.named("stream+beam12", 0.5) == Kind("stream+beam12", 0.5, True, 12)
    assert Kind.named("unary+beam2").beam_size == 2


@pytest.mark.parametrize(
    "name", ["", "beam", "beam0", "streams", "+beam4", "stream+", "streambeam4", "beam4+stream", "4"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not unary, stream, beamN"):
        Kind.named(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unary", "'unary' is not KIND=WEIGHT"),
        ("unary=half", "'unary=half' is not KIND=WEIGHT"),
        ("unary=0.5,stream=0", "'stream=0' is not KIND=WEIGHT"),
        ("unary=nan", "above 0"),
        ("unary=inf", "above 0"),
        ("unary=1,unary=2", "unary comes twice"),
        ("unary=1,", "'' is not KIND=WEIGHT"),
    ],
)
def test_a_wrong_part_of_a_mix_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mix(text)


def test_kinds_are_drawn_by_weight_and_by_seed() -> None:
    kinds = parse_mix("unary=5, stream=3, beam4=2")  # in proportion, whatever they add up to
    drawn = [kind_at(1, kinds, number).name for number in range(5000)]
    assert drawn == [kind_at(1, kinds, number).name for number in range(5000)]
    assert drawn != [kind_at(2, kinds, number).name for number in range(5000)]
    counts = Counter(drawn)
    for name, expected in (("unary", 2500), ("stream", 1500), ("beam4", 1000)):
        assert abs(counts[name] - expected) < 150
    assert kind_at(1, (STREAM,), 7) is STREAM
