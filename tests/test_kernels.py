"""The compiled operators beside the functions of standard operators that define them, in the runtime itself."""

import os
import platform
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from one_operator import Arrays, needs_library, numbers, session
from seqserve_server import kernels


def both(operator: str, inputs: Arrays, **attributes: int | float) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What the library and what the definition compute."""
    one, other = (session(operator, inputs, attributes, compiled=compiled) for compiled in (True, False))
    return one.run(None, inputs), other.run(None, inputs)


def test_an_installation_for_a_usual_machine_has_the_library() -> None:
    if sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"):
        assert kernels.compiled_library() is not None


@needs_library
def test_rounding_has_the_bits_of_its_definition() -> None:
    some: Arrays = {"values": numbers(0, 1, 1)}
    one, other = (session("RowQuantize", some, {}, compiled=compiled) for compiled in (True, False))

    @settings(max_examples=200, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 600), st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1e-6, 1, 1e30]))
    def rounds_alike(rows: int, width: int, seed: int, size: float) -> None:
        values = numbers(seed, rows, width) * np.float32(size)
        values[rows // 2 :: 7] = 0
        for compiled, defined in zip(*(each.run(None, {"values": values}) for each in (one, other)), strict=True):
            np.testing.assert_array_equal(compiled, defined)

    rounds_alike()


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_does_not_come_out_as_one(odd: float) -> None:
    values = numbers(0, 5, 40)
    values[2, 37] = odd
    _, scales = session("RowQuantize", {"values": values}, {}, compiled=True).run(None, {"values": values})
    assert np.isfinite(scales[[0, 1, 3, 4]]).all()
    assert not np.isfinite(scales[2]).any()


@needs_library
@pytest.mark.parametrize("width", [1, 15, 16, 512, 1029])
@pytest.mark.parametrize("operator", ["Scale", "ScaleBias", "ScaleAdd", "ScaleBiasAdd"])
def test_scaling_has_the_bits_of_its_definition(operator: str, width: int) -> None:
    inputs: Arrays = {"product": numbers(1, 70, width), "scales": numbers(2, 70, 1)}
    if "Bias" in operator:
        inputs["bias"] = numbers(3, width)
    if operator.endswith("Add"):
        inputs["residual"] = numbers(4, 70, width)
    compiled, defined = both(operator, inputs)
    np.testing.assert_array_equal(compiled[0], defined[0])


def step_inputs(rows: int, heads: int, size: int, last: Sequence[int], seed: int, *, queries: int) -> Arrays:
    capacity = max(last) + 9
    return {
        "packed": numbers(seed, rows, 1, queries * size), "keys": numbers(seed + 1, rows, heads, capacity, size),
        "values": numbers(seed + 2, rows, heads, capacity, size), "last": np.array(last, dtype=np.int32),
        "extent": np.array(max(2, max(last) + 1), dtype=np.int32),
    }


@needs_library
@pytest.mark.parametrize("size", [8, 24, 32, 64, 128])
@pytest.mark.parametrize("biased", [False, True])
def test_self_attention_of_a_step_is_its_definition_and_appends(size: int, biased: bool) -> None:
    last = [0, 4, 30, 17, 1, 63, 31]
    inputs = step_inputs(7, 4, size, last, 5, queries=12)
    if biased:
        inputs["bias"] = numbers(9, 7, 4, 1, int(inputs["extent"]))
    operator = "BiasedSelfAttention" if biased else "SelfAttention"
    compiled, defined = both(operator, inputs, num_heads=4, kv_num_heads=4, scale=0.2)
    np.testing.assert_allclose(compiled[0], defined[0], atol=3e-6)
    for row, place in enumerate(last):  # behind it the definition may leave anything
        for one, other in zip(compiled[1:], defined[1:], strict=True):
            np.testing.assert_array_equal(one[row, :, : place + 1], other[row, :, : place + 1])


@needs_library
def test_cross_attention_of_a_step_is_its_definition_for_rows_that_share_a_source() -> None:
    inputs = step_inputs(6, 2, 16, [3, 40, 16, 15, 7, 0], 6, queries=8)
    inputs = {("query" if name == "packed" else name): array for name, array in inputs.items()}
    inputs["none_new"] = np.zeros((6, 0, 2 * 16), dtype=np.float32)
    compiled, defined = both("CrossAttention", inputs, num_heads=8, kv_num_heads=2, scale=0.25)
    np.testing.assert_allclose(compiled[0], defined[0], atol=3e-6)


def packed_inputs(lengths: Sequence[int], width: int, seed: int) -> Arrays:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    padded = -(-max(lengths) // 16) * 16
    pad = np.zeros((len(lengths), padded), dtype=np.int64)
    for row, length in enumerate(lengths):
        pad[row, :length] = np.arange(starts[row], starts[row + 1])
    pack = np.concatenate([row * padded + np.arange(length) for row, length in enumerate(lengths)])
    return {
        "packed": numbers(seed, int(starts[-1]), 3 * width), "lengths": np.array(lengths, dtype=np.int32),
        "pad_index": pad, "pack_index": pack,
    }


@needs_library
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", [4, 16, 20, 64])
def test_attention_of_packed_sources_is_its_definition(size: int, biased: bool) -> None:
    inputs = packed_inputs([1, 20, 16, 33, 5, 70], 3 * size, 7)
    if biased:
        inputs["bias"] = numbers(8, 1, 3, 80, 80)
    operator = "BiasedPackedAttention" if biased else "PackedAttention"
    compiled, defined = both(operator, inputs, num_heads=3, scale=0.3)
    np.testing.assert_allclose(compiled[0], defined[0], atol=3e-6)


@needs_library
@pytest.mark.parametrize("count", [1, 2, 7, 128, 1000])
def test_the_best_candidates_are_those_of_the_definition_with_ties_to_the_lower_id(count: int) -> None:
    logits = np.round(numbers(10, 9, 1000), 1) * 4  # many ties
    compiled, defined = both("TopCandidates", {"logits": logits, "count": np.array([count])})
    np.testing.assert_array_equal(compiled[1], defined[1])
    np.testing.assert_allclose(compiled[0], defined[0], atol=4e-6)


@needs_library
def test_candidates_that_are_suppressed_or_rising_are_found() -> None:
    logits = np.full((3, 300), -np.inf, dtype=np.float32)
    logits[0, 299], logits[0, 7] = 1, 0
    logits[1] = np.arange(300)
    logits[2, :] = -1e12
    logits[2, 40] = 3
    compiled, defined = both("TopCandidates", {"logits": logits, "count": np.array([2])})
    np.testing.assert_array_equal(compiled[1][:2], defined[1][:2])
    np.testing.assert_allclose(compiled[0][:, 0], defined[0][:, 0], atol=1e-6)
    assert compiled[1][2].tolist() == [40, 0]


@needs_library
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_logits_that_are_no_numbers_have_no_log_probabilities(odd: float) -> None:
    logits = numbers(11, 2, 50)
    logits[1, 48] = odd
    inputs = {"logits": logits, "count": np.array([3])}
    log_probs, ids = session("TopCandidates", inputs, {}, compiled=True).run(None, inputs)
    assert np.isfinite(log_probs[0]).all()
    assert np.isnan(log_probs[1]).all()
    assert ((ids >= 0) & (ids < 50)).all()


@needs_library
def test_the_bits_of_a_row_do_not_depend_on_the_others() -> None:
    last = [int(length) for length in np.random.default_rng(0).integers(0, 60, 48)]
    inputs = step_inputs(48, 4, 64, last, 12, queries=12)
    attributes: dict[str, int | float] = {"num_heads": 4, "kv_num_heads": 4, "scale": 0.125}
    step = session("SelfAttention", inputs, attributes, compiled=True)
    together = step.run(None, {name: array.copy() for name, array in inputs.items()})[0]
    lengths = [length + 1 for length in last]
    sources = packed_inputs(lengths, 64, 13)
    attend = session("PackedAttention", sources, {"num_heads": 4, "scale": 0.25}, compiled=True)
    attended = attend.run(None, sources)[0]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for row in range(48):
        alone: Arrays = {name: inputs[name][row : row + 1] for name in ("packed", "keys", "values", "last")}
        alone["extent"] = np.array(max(2, last[row] + 1), dtype=np.int32)
        np.testing.assert_array_equal(step.run(None, alone)[0][0], together[row])
        source = packed_inputs([lengths[row]], 64, 0)
        source["packed"] = sources["packed"][starts[row] : starts[row + 1]]
        np.testing.assert_array_equal(attend.run(None, source)[0], attended[starts[row] : starts[row + 1]])


@needs_library
@pytest.mark.parametrize("level", ["v3", "plain"])
def test_every_processor_computes_the_same_bits(level: str) -> None:
    cases: list[tuple[str, Arrays, dict[str, int | float]]] = [
        ("RowQuantize", {"values": numbers(14, 9, 75)}, {}),
        ("SelfAttention", step_inputs(5, 2, 24, [0, 3, 40, 9, 16], 15, queries=6),
         {"num_heads": 2, "kv_num_heads": 2, "scale": 0.2}),
        ("PackedAttention", packed_inputs([3, 40, 17], 40, 16), {"num_heads": 2, "scale": 0.2}),
        ("TopCandidates", {"logits": numbers(17, 3, 5003), "count": np.array([5])}, {}),
    ]
    for operator, inputs, attributes in cases:
        best = session(operator, inputs, attributes, compiled=True).run(None, inputs)
        with mock.patch.dict(os.environ, {"SEQSERVE_KERNELS": level}):
            less = session(operator, inputs, attributes, compiled=True).run(None, inputs)
        for one, other in zip(best, less, strict=True):
            np.testing.assert_array_equal(one, other)


@needs_library
@pytest.mark.parametrize(("change", "message"), [
    ({"last": np.array([99, 0], dtype=np.int32)}, "beyond the buffer"),
    ({"last": np.array([-1, 0], dtype=np.int32)}, "beyond the buffer"),
    ({"packed": np.zeros((2, 1, 40), dtype=np.float32)}, "shapes do not fit"),
    ({"values": np.zeros((2, 2, 5, 8), dtype=np.float32)}, "shapes do not fit"),
])
def test_positions_and_shapes_that_do_not_fit_are_refused(change: Arrays, message: str) -> None:
    inputs = step_inputs(2, 2, 8, [3, 4], 18, queries=6)
    attributes: dict[str, int | float] = {"num_heads": 2, "kv_num_heads": 2, "scale": 1.0}
    opened = session("SelfAttention", inputs, attributes, compiled=True)
    with pytest.raises(Exception, match=message):
        opened.run(None, inputs | change)


@needs_library
@pytest.mark.parametrize(("operator", "inputs", "message"), [
    ("TopCandidates", {"logits": numbers(1, 2, 5), "count": np.array([6])}, "more than there are"),
    ("TopCandidates", {"logits": numbers(1, 2, 5), "count": np.array([0])}, "or none"),
    ("TopCandidates", {"logits": numbers(1, 2, 5), "count": np.array([], dtype=np.int64)}, "shapes do not fit"),
    ("PackedAttention", packed_inputs([3, 4], 8, 1) | {"lengths": np.array([3, 5], dtype=np.int32)}, "lengths do not"),
    ("PackedAttention", packed_inputs([3, 4], 8, 1) | {"lengths": np.array([8, -1], dtype=np.int32)}, "lengths do not"),
    ("ScaleBias", {"product": numbers(1, 2, 5), "scales": numbers(1, 2, 1), "bias": numbers(1, 4)}, "do not fit"),
])
def test_what_would_read_beyond_a_tensor_is_refused(operator: str, inputs: Arrays, message: str) -> None:
    attributes: dict[str, int | float] = {"num_heads": 1, "scale": 1.0} if operator == "PackedAttention" else {}
    opened = session(operator, inputs, attributes, compiled=True)
    with pytest.raises(Exception, match=message):
        opened.run(None, inputs)
