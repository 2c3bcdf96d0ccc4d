"""The primitives of attention against sums written out in numpy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqserve_export.model.attention import MultiHeadAttention, masked_softmax
from seqserve_export.model.pooling import (
    AdditiveAttention,
    DotProductAttention,
    KernelRegression,
    SelfAttention,
    average_pooling,
    max_pooling,
)
from seqserve_export.model.scores import visible_keys
from tiny_model import tiny_config

Array = NDArray[np.float64]
LENGTHS = (5, 2, 1)


def rows(*shape: int) -> Array:
    """Values of a fixed draw."""
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def normalised(scores: Array, seen: list[int]) -> Array:
    """Softmax over the keys that are seen, one by one."""
    largest = max(scores[key] for key in seen)
    total = sum(math.exp(scores[key] - largest) for key in seen)
    return np.array([math.exp(score - largest) / total if key in seen else 0.0 for key, score in enumerate(scores)])


def test_masked_softmax_spreads_all_weight_over_the_valid_keys() -> None:
    scores = rows(3, 4, 5)
    weights = masked_softmax(torch.tensor(scores), visible_keys(torch.tensor(LENGTHS), 5)).numpy()
    for row, length in enumerate(LENGTHS):
        for query in range(4):
            expected = normalised(scores[row, query], list(range(length)))
            np.testing.assert_allclose(weights[row, query], expected, atol=1e-12)
            assert not weights[row, query, length:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_row_that_sees_nothing_gets_equal_weights_in_every_format(dtype: torch.dtype) -> None:
    weights = masked_softmax(torch.tensor([[1.0, 5.0, -2.0, 0.0]], dtype=dtype), torch.zeros(1, 4, dtype=torch.bool))
    assert weights.dtype == dtype
    assert weights.tolist() == [[0.25] * 4]


def test_average_and_max_pooling_look_at_valid_values_alone() -> None:
    values = rows(3, 5, 2)
    values[1, 2:], values[2, 1:] = 1e6, 1e6
    average = average_pooling(torch.tensor(values), torch.tensor(LENGTHS)).numpy()
    largest = max_pooling(torch.tensor(values), torch.tensor(LENGTHS)).numpy()
    for row, length in enumerate(LENGTHS):
        for column in range(2):
            column_values = [values[row, key, column] for key in range(length)]
            assert average[row, column] == pytest.approx(sum(column_values) / length, abs=1e-12)
            assert largest[row, column] == max(column_values)


def kernel_estimate(at: float, keys: Array, values: Array, width: float) -> float:
    """Nadaraya-Watson with a Gaussian kernel, as a quotient of two sums."""
    kernels = [math.exp(-((at - key) ** 2) / (2 * width**2)) for key in keys]
    return float(sum(kernel * value for kernel, value in zip(kernels, values, strict=True)) / sum(kernels))


@pytest.mark.parametrize("width", [1.0, 0.3])
def test_kernel_regression_is_the_quotient_of_two_sums(width: float) -> None:
    queries, keys, values = rows(2, 3), rows(2, 6), rows(2, 7)[:, :6]
    regression = KernelRegression(width)
    assert not list(regression.parameters())
    found, weights = regression.double()(
        torch.tensor(queries), torch.tensor(keys), torch.tensor(values), torch.ones(2, 1, 6, dtype=torch.bool)
    )
    for row in range(2):
        expected = [kernel_estimate(query, keys[row], values[row], width) for query in queries[row]]
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(-1).numpy(), 1.0, rtol=1e-12)


def test_a_learned_width_follows_the_gradient_and_fits_better() -> None:
    random = np.random.default_rng(1)
    keys = np.sort(random.uniform(0, 5, 50))
    observed = 2 * np.sin(keys) + keys**0.8 + random.normal(0, 0.5, 50)
    regression = KernelRegression(1.0, learned=True).double()
    points, values = torch.tensor(keys)[None], torch.tensor(observed)[None]
    others = ~torch.eye(50, dtype=torch.bool)[None]

    def loss() -> torch.Tensor:
        predicted: torch.Tensor = regression(points, points, values, others)[0]
        return (predicted - values).square().mean()

    def left_out(width: float) -> float:
        estimates = [
            kernel_estimate(keys[i], np.delete(keys, i), np.delete(observed, i), width) for i in range(len(keys))
        ]
        return float(np.mean((np.array(estimates) - observed) ** 2))

    first = loss()
    first.backward()  # type: ignore[no-untyped-call]
    assert first.item() == pytest.approx(left_out(1.0), rel=1e-6)
    slope = (left_out(1 / (1 + 1e-5)) - left_out(1 / (1 - 1e-5))) / 2e-5
    assert regression.inverse_width.grad is not None
    assert regression.inverse_width.grad.item() == pytest.approx(slope, rel=1e-4)
    with torch.no_grad():
        regression.inverse_width -= 2.0 * regression.inverse_width.grad
    assert loss().item() < first.item()


def test_additive_attention_equals_the_sum_written_out() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(query_width=3, key_width=2, hidden=4).double()
    query, key, value = rows(3, 2, 3), rows(3, 5, 2), rows(3, 5, 6)
    visible = visible_keys(torch.tensor(LENGTHS), 5)
    found, weights = attention(torch.tensor(query), torch.tensor(key), torch.tensor(value), visible)
    of_query, of_key, vector = (parameter.detach().numpy() for parameter in (
        attention.query.weight, attention.key.weight, attention.vector
    ))
    for row, length in enumerate(LENGTHS):
        for place in range(2):
            scores = np.array([
                sum(vector[h] * math.tanh(of_query[h] @ query[row, place] + of_key[h] @ key[row, k]) for h in range(4))
                for k in range(5)
            ])
            expected = normalised(scores, list(range(length)))
            np.testing.assert_allclose(weights[row, place].detach().numpy(), expected, atol=1e-12)
            np.testing.assert_allclose(found[row, place].detach().numpy(), expected @ value[row], atol=1e-12)


QUERY, VALUE = [[1.0, 0.0, 1.0], [2.0, 3.0, 1.0]], [[2.0, 1.0, 1.0], [1.0, 4.0, 2.0]]
KEY = [[1.0, 2.0, 2.0], [3.0, 1.0, 0.1]]


@pytest.mark.parametrize(("key", "weights", "results"), [
    (None, [[0.5, 0.5], [3.3535e-4, 0.99966466]], [[1.5, 2.5, 1.5], [1.00033535, 3.99899395, 1.99966465]]),
    (
        KEY, [[0.47502081, 0.52497919], [0.7109495, 0.2890505]],
        [[1.47502081, 2.57493756, 1.52497919], [1.71094951, 1.86715149, 1.2890505]],
    ),
])
def test_the_worked_numbers_of_dot_product_attention(
    key: list[list[float]] | None, weights: list[list[float]], results: list[list[float]],
) -> None:
    attention = DotProductAttention()
    assert not list(attention.parameters())
    found, shares = attention(
        torch.tensor([QUERY]), torch.tensor([VALUE]), None if key is None else torch.tensor([key])
    )
    np.testing.assert_allclose(shares[0].numpy(), weights, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found[0].numpy(), results, rtol=1e-6)


@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("score_mode", ["dot", "concat"])
@pytest.mark.parametrize("causal", [False, True])
def test_dot_product_attention_follows_keras_in_every_option(use_scale: bool, score_mode: str, causal: bool) -> None:
    attention = DotProductAttention(use_scale=use_scale, score_mode=score_mode).double()  # type: ignore[arg-type]
    scale, factor = 1.0, 1.0
    with torch.no_grad():
        if attention.scale is not None:
            scale = attention.scale.fill_(0.7).item()
        if attention.concat_score_weight is not None:
            factor = attention.concat_score_weight.fill_(1.3).item()
    assert [name for name, _ in attention.named_parameters()] == [
        *(["scale"] if use_scale else []), *(["concat_score_weight"] if score_mode == "concat" else [])
    ]
    query, key, value = rows(3, 5, 4), rows(3, 5, 4) + 1, rows(3, 5, 2)
    lengths = torch.tensor(LENGTHS)
    found, weights = attention(
        torch.tensor(query), torch.tensor(value), torch.tensor(key), causal=causal,
        query_visible=visible_keys(lengths, 5)[:, 0], value_visible=visible_keys(lengths, 5)[:, 0],
    )
    for row, length in enumerate(LENGTHS):
        for place in range(5):
            if score_mode == "dot":
                scores = scale * key[row] @ query[row, place]
            else:
                scores = factor * np.tanh(scale * (key[row] + query[row, place])).sum(-1)
            seen = [k for k in range(length) if not causal or k <= place]
            expected = normalised(scores, seen)
            np.testing.assert_allclose(weights[row, place].detach().numpy(), expected, atol=1e-12)
            result = expected @ value[row] if place < length else np.zeros(2)
            np.testing.assert_allclose(found[row, place].detach().numpy(), result, atol=1e-12)


def test_an_unknown_score_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="score_mode: 'general' is not one of dot, concat"):
        DotProductAttention(score_mode="general")  # type: ignore[arg-type]


def multi_head(attention: MultiHeadAttention, states: Array, length: int) -> Array:
    """Head by head, query by query, over states [positions, width]."""
    def project(name: str, inputs: Array) -> Array:
        layer = attention.get_submodule(name)
        weight, bias = (getattr(layer, part).detach().numpy() for part in ("weight", "bias"))
        return np.asarray(inputs @ weight.T + bias)

    query, key, value = (project(name, states) for name in ("query", "key", "value"))
    size, joined = attention.head_size, np.zeros_like(query)
    for first in range(0, query.shape[1], size):
        columns = slice(first, first + size)
        for place in range(len(states)):
            scores = key[:, columns] @ query[place, columns] / math.sqrt(size)
            joined[place, columns] = normalised(scores, list(range(length))) @ value[:, columns]
    return project("output", joined)


def test_self_attention_is_multi_head_attention_of_states_with_sinusoids() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config(), positions="sinusoidal", sinusoid_order="interleaved", dropout=0.0)
    attention, width = SelfAttention(config).double().eval(), config.width
    states = rows(3, 5, width)
    found = attention(torch.tensor(states), torch.tensor(LENGTHS)).detach().numpy()
    waves = np.array([
        [(math.cos if c % 2 else math.sin)(p / 10000 ** ((c - c % 2) / width)) for c in range(width)] for p in range(5)
    ])
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[row], multi_head(attention.attention, states[row] + waves, length), atol=1e-6)
