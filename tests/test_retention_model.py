"""Retention in PyTorch: against plain arithmetic, its two forms against one another, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from checkpoint_edits import change_json
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.model import Transformer
from seqserve_export.model.config import ConfigError
from seqserve_export.model.retention import MultiScaleRetention, log_decays, rotate, rotation_tables
from tiny_model import tiny_config, tiny_model, write_native

CLOSE = 1e-5
RETAINS: dict[str, Any] = {"decoder_mixing": "retention"}
Values = NDArray[np.float64]


def retention(length: int = 64, **changes: Any) -> MultiScaleRetention:
    """Of random projections of a size at which epsilon and scale of the norm both count."""
    made = MultiScaleRetention(tiny_config(**RETAINS, max_target_length=length, **changes)).requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return made


def turned(vector: Values, position: int) -> Values:
    """Each pair of neighbours as a complex number, turned by the angle of its rate."""
    half = len(vector) // 2
    rates = np.array([10000.0 ** -(0.0 if half == 1 else pair / (half - 1)) for pair in range(half)])
    numbers = (vector[0::2] + 1j * vector[1::2]) * np.exp(1j * position * rates)
    return np.stack([numbers.real, numbers.imag], axis=1).reshape(-1)


def by_hand(made: MultiScaleRetention, states: Values) -> Values:
    """[length, width] -> the same, by the recurrence of the paper with numpy and loops alone."""
    weights = {name: parameter.numpy().astype(float) for name, parameter in made.named_parameters()}
    query, key, value, gate = (states @ weights[f"{name}.weight"].T for name in ("query", "key", "value", "gate"))
    outputs = np.zeros_like(value)
    for head in range(made.heads):
        keys = slice(head * made.key_size, (head + 1) * made.key_size)
        values = slice(head * made.value_size, (head + 1) * made.value_size)
        gamma, kept, total = 1 - 2.0 ** (-5 - head), np.zeros((made.key_size, made.value_size)), 0.0
        for place in range(len(states)):
            added = np.outer(turned(key[place, keys], place) / math.sqrt(made.key_size), value[place, values])
            kept, total = gamma * kept + added, gamma * total + 1
            found = turned(query[place, keys], place) @ kept / math.sqrt(total)
            outputs[place, values] = found / math.sqrt((found**2).mean() + made.epsilon)
    result: Values = (gate / (1 + np.exp(-gate)) * outputs) @ weights["output.weight"].T
    return result


@pytest.mark.parametrize("changes", [{}, {"heads": 2, "head_size": 10, "retention_value_size": 5}, {"head_size": 2}])
def test_both_forms_are_the_recurrence_of_the_paper(changes: dict[str, Any]) -> None:
    made = retention(**changes)
    states = np.random.default_rng(0).standard_normal((2, 30, 32))
    given = torch.tensor(states, dtype=torch.float32)
    parallel, after = made(given, 0, None)
    state = torch.zeros_like(after)
    recurrent, last = made(given, 0, state)
    for row in range(2):
        expected = by_hand(made, states[row])
        np.testing.assert_allclose(parallel[row].numpy(), expected, atol=CLOSE)
        np.testing.assert_allclose(recurrent[row].numpy(), expected, atol=CLOSE)
    np.testing.assert_allclose(after.numpy(), last.numpy(), atol=CLOSE)


def test_a_length_of_many_half_lives_neither_grows_nor_drifts() -> None:
    made, length = retention(length=3000), 3000
    states = torch.randn(1, length, 32, generator=torch.Generator().manual_seed(1))
    parallel, after = made(states, 0, None)
    recurrent, last = made(states, 0, torch.zeros_like(after))
    np.testing.assert_allclose(recurrent.numpy(), parallel.numpy(), atol=CLOSE)
    early = made(states[:, :200], 0, None)[1]
    assert last.abs().max() < 10 * early.abs().max()


def test_decays_are_those_of_the_paper_for_any_number_of_heads() -> None:
    assert torch.exp(log_decays(4)).tolist() == [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128, 1 - 1 / 256]
    made = retention(heads=64, head_size=2, length=40)
    assert torch.isfinite(made.shares).all(), "beyond 53 heads gamma is 1 even in float64"
    np.testing.assert_allclose(made.shares[:, -1], np.arange(1, 41) ** -0.5, rtol=1e-6)


def test_a_product_of_rotated_vectors_depends_on_their_distance_alone() -> None:
    cosines, sines = rotation_tables(50, 8)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    products = [
        torch.dot(rotate(query, cosines[there + 5], sines[there + 5]), rotate(key, cosines[there], sines[there]))
        for there in (0, 3, 40)
    ]
    np.testing.assert_allclose(products, [products[0]] * 3, atol=1e-5)


def logits_in_parts(model: Transformer, target: torch.Tensor, parts: list[int]) -> NDArray[np.float32]:
    source, lengths = torch.tensor([[5, 6, 7, 1], [9, 1, 0, 0]]), torch.tensor([4, 2])
    state = model.begin(model.encode(source, lengths), lengths)
    logits = torch.cat([model.decode(part, state) for part in torch.split(target, parts, dim=1)], dim=1)
    found: NDArray[np.float32] = logits.numpy()
    return found


@pytest.mark.parametrize("changes", [{}, {"norm_position": "pre", "final_norm": True, "retention_value_size": 6}])
def test_the_models_forms_agree_however_a_target_is_cut(changes: dict[str, Any]) -> None:
    model = tiny_model(**RETAINS, **changes)
    target = torch.randint(3, 50, (2, 60), generator=torch.Generator().manual_seed(3))
    whole = logits_in_parts(model, target, [60])
    for parts in ([1] * 60, [25, 35], [1, 59]):
        np.testing.assert_allclose(logits_in_parts(model, target, parts), whole, atol=CLOSE * np.abs(whole).max())


def test_gradients_of_the_parallel_form_reach_every_parameter() -> None:
    model = Transformer(tiny_config(**RETAINS)).train()
    model(torch.tensor([[5, 1]]), torch.tensor([2]), torch.tensor([[2, 7, 8]])).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for name, parameter in model.named_parameters()
               if ".retention." in name)


@pytest.mark.parametrize(("changes", "message"), [
    ({"head_size": 7}, "head_size: 7 is odd"),
    ({"positions": "relative"}, "positions: retention has no scores"),
    ({"retention_value_size": 0}, "retention_value_size: 0 is not between 1 and"),
    ({"retention_value_size": 1 << 15}, "retention_value_size: 32768 is not between 1 and"),
    ({"retention_value_size": "16"}, "retention_value_size: '16' is not an integer"),
    ({"decoder_mixing": "attention", "retention_value_size": 16}, 'retention_value_size: needs decoder_mixing "ret'),
    ({"decoder_mixing": "mamba"}, "decoder_mixing: 'mamba' is not one of attention, retention"),
    ({"head_size": 512, "max_target_length": 1 << 20, "positions": "learned"}, "max_target_length 1048576: a table"),
])
def test_settings_that_contradict_retention_are_refused_with_their_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**{**RETAINS, **changes})


def test_the_family_is_known_by_its_config(tmp_path: Path) -> None:
    write_native(tmp_path / "retnet", **RETAINS)
    write_native(tmp_path / "native")
    assert choose_family(tmp_path / "retnet").name == "retnet"
    assert choose_family(tmp_path / "native").name == "native"
    checkpoint = choose_family(tmp_path / "retnet").read(tmp_path / "retnet")
    assert checkpoint.family == "retnet"
    assert choose_family(tmp_path / "retnet", "native").read(tmp_path / "retnet").family == "native"
    with pytest.raises(ExportError, match="decoder_mixing: 'attention' is not 'retention'"):
        choose_family(tmp_path / "native", "retnet").read(tmp_path / "native")


@pytest.mark.parametrize(("changes", "message"), [
    ({"decoder_mixing": "attention"}, "decoder_mixing: 'attention' is not"),
    ({"retention_value_size": 8}, r"decoder\.0\.retention\.(gate|output|value)\.weight"),
    ({"head_size": 6}, r"weight"),
    ({"retention_value_size": -1}, "retention_value_size: -1 is not between 1"),
])
def test_a_damaged_checkpoint_is_refused_with_the_field_or_tensor(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_native(tmp_path / "source", **RETAINS)
    change_json(tmp_path / "source" / "config.json", **changes)
    with pytest.raises(ExportError, match=message):
        choose_family(tmp_path / "source", "retnet").read(tmp_path / "source")
