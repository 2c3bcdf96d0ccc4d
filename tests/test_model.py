"""The canonical model's pieces against independent arithmetic."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqserve_export.model import CanonicalModel, TransformerConfig
from seqserve_export.model.attention import dot_product_attention
from seqserve_export.model.config import ConfigError
from seqserve_export.model.layers import RMSNorm, self_attention
from seqserve_export.model.positions import relative_bucket, sinusoid_table
from tiny_model import tiny_config, tiny_model


def angle(position: int, frequency: int, width: int) -> float:
    return float(position / 10000 ** (2 * frequency / width))


@pytest.mark.parametrize("width", [8, 7])
def test_interleaved_sinusoids_put_sine_at_even_and_cosine_at_odd_columns(width: int) -> None:
    table = sinusoid_table(20, width, "interleaved")
    for position in (0, 1, 19):
        for column in range(width):
            wave = math.cos if column % 2 else math.sin
            assert table[position, column] == pytest.approx(wave(angle(position, column // 2, width)), abs=1e-6)


@pytest.mark.parametrize("width", [8, 7])
def test_concatenated_sinusoids_put_all_sines_first(width: int) -> None:
    table, sines = sinusoid_table(20, width, "concatenated"), (width + 1) // 2
    for position in (0, 1, 19):
        for column in range(width):
            wave, frequency = (math.sin, column) if column < sines else (math.cos, column - sines)
            assert table[position, column] == pytest.approx(wave(angle(position, frequency, width)), abs=1e-6)


def scalar_bucket(distance: int, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """T5's rule for one distance, in plain Python."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    return first + min(exact + int(share * (buckets - exact)), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20)])
def test_relative_buckets_follow_t5(bidirectional: bool, buckets: int, max_distance: int) -> None:
    distances = list(range(-300, 301))
    found = relative_bucket(
        torch.tensor(distances), bidirectional=bidirectional, buckets=buckets, max_distance=max_distance
    ).tolist()
    expected = [scalar_bucket(distance, bidirectional, buckets, max_distance) for distance in distances]
    # Where the logarithm is a whole number, float32 and float64 may fall on either side of it.
    different = [d for d, one, other in zip(distances, found, expected, strict=True) if one != other]
    assert all(scalar_bucket(d - 1, bidirectional, buckets, max_distance) !=
               scalar_bucket(d + 1, bidirectional, buckets, max_distance) for d in different)
    assert len(different) <= 2
    assert set(found) <= set(range(buckets))


def numpy_attention(
    query: NDArray[np.float64], key: NDArray[np.float64], value: NDArray[np.float64], length: int, scale: float,
    bias: NDArray[np.float64],
) -> NDArray[np.float64]:
    scores = scale * query @ key[:length].T + bias[:, :length]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = (weights / weights.sum(axis=-1, keepdims=True)) @ value[:length]
    return result


def test_attention_equals_numpy_over_the_valid_keys_alone() -> None:
    random = np.random.default_rng(0)
    query, key, value = (random.standard_normal((2, 3, 5, 4)) for _ in range(3))
    bias, lengths = random.standard_normal((1, 3, 5, 5)), [5, 2]
    visible = torch.arange(5)[None, :] < torch.tensor(lengths)[:, None]
    found = dot_product_attention(
        torch.tensor(query), torch.tensor(key), torch.tensor(value),
        visible=visible[:, None, None, :], scale=0.3, bias=torch.tensor(bias),
    ).numpy()
    for row in range(2):
        for head in range(3):
            expected = numpy_attention(
                query[row, head], key[row, head], value[row, head], lengths[row], 0.3, bias[0, head]
            )
            np.testing.assert_allclose(found[row, head], expected, atol=1e-12)


def test_a_row_without_visible_keys_stays_finite() -> None:
    ones = torch.ones(1, 1, 2, 4)
    result = dot_product_attention(ones, ones, ones, visible=torch.zeros(1, 1, 2, 2, dtype=torch.bool), scale=1.0)
    assert torch.isfinite(result).all()


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    states = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    assert torch.allclose(RMSNorm(4, 0.0)(states), states / 2.5)


def test_padding_and_batch_mates_change_no_logits() -> None:
    model = tiny_model()
    target = torch.tensor([[2, 5, 6]])
    alone = model(torch.tensor([[7, 8, 1]]), torch.tensor([3]), target)
    batch = model(
        torch.tensor([[7, 8, 1, 0, 0], [9, 10, 11, 12, 1]]), torch.tensor([3, 5]), target.expand(2, 3)
    )
    assert torch.allclose(alone[0], batch[0], atol=1e-5)


def test_a_token_sees_no_later_token() -> None:
    model = tiny_model()
    source, lengths = torch.tensor([[7, 8, 1]]), torch.tensor([3])
    one, other = (model(source, lengths, torch.tensor([[2, 5, last]])) for last in (6, 40))
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.equal(one[:, 2], other[:, 2])


def test_the_head_size_is_free_of_the_width() -> None:
    model = tiny_model(heads=2, head_size=20)
    assert self_attention(next(iter(model.decoder))).query.weight.shape == (40, 32)
    assert model(torch.tensor([[7, 1]]), torch.tensor([2]), torch.tensor([[2]])).shape == (1, 1, 50)


def test_tied_and_shared_weights_are_one_tensor() -> None:
    model = tiny_model(shared_embeddings=True, tied_output=True)
    assert model.output.weight is model.source_embedding.tokens.weight is model.target_embedding.tokens.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "swish"}, "activation: 'swish' is not one of relu"),
        ({"width": 0}, "width: 0 must be at least 1"),
        ({"eos_id": 50}, "eos_id: 50 is outside the vocabulary of 50"),
        ({"shared_embeddings": True, "target_vocab_size": 51}, "shared_embeddings: "),
        ({"dropout": 1.0}, "dropout: 1.0"),
        ({"sinusoid_order": "fairseq", "width": 2}, "width: 2 is below 4"),
        ({"positions": "relative", "relative_buckets": 2}, "relative_buckets: 2 must be at least 4"),
        ({"positions": "relative", "relative_max_distance": 16}, "relative_max_distance: 16 is not above half"),
    ],
)
def test_contradictions_in_a_configuration_name_the_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        tiny_config(**changes)


@pytest.mark.parametrize("left_out", ["encode", "encoder_states", "begin", "decoder_states", "project", "tie"])
def test_a_model_that_leaves_a_part_out_is_never_made(left_out: str) -> None:
    parts = {"encode", "encoder_states", "begin", "decoder_states", "project", "tie"} - {left_out}
    partial = type("Partial", (CanonicalModel,), dict.fromkeys(parts, lambda *given: None))
    with pytest.raises(TypeError, match=rf"abstract class Partial .*\b{left_out}\b"):
        partial()


def test_a_configuration_survives_its_file() -> None:
    config = tiny_config(norm="rms", attention_scale=1.0)
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_and_missing_keys_of_a_configuration_are_named() -> None:
    values = dataclasses.asdict(tiny_config())
    with pytest.raises(ConfigError, match="unknown keys: colour, hue"):
        TransformerConfig.from_dict({**values, "hue": 1, "colour": 2})
    del values["width"], values["heads"]
    with pytest.raises(ConfigError, match="missing keys: heads, width"):
        TransformerConfig.from_dict(values)
