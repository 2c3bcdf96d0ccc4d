"""``bench/length_cost.py``: what it measures, the laws it fits, and that it does so of every architecture."""

import json
from pathlib import Path

import numpy as np
import pytest

import length_cost
import length_models
import length_plot
from length_laws import Law, fitted, slope
from seqserve.bundle import read_model

LENGTHS = (16, 32, 64, 128)


@pytest.mark.parametrize(("law", "degree"), [
    (Law((0.5, 0.01, 2e-4)), 2), (Law((0.1, 0.003)), 1), (Law((0.7,)), 0), (Law((0.0, 0.02, 0.0)), 2),
])
def test_a_law_is_found_again_in_its_own_times(law: Law, degree: int) -> None:
    found = fitted({2**power: law.at(2**power) for power in range(4, 13)}, degree)
    assert found.coefficients == pytest.approx(law.coefficients, rel=1e-6, abs=1e-9)


def test_no_cost_is_negative() -> None:
    """Times that grow less than in proportion would be fitted best by a negative square."""
    found = fitted({length: length**0.5 for length in LENGTHS}, 2)
    assert min(found.coefficients) >= 0
    assert found.coefficients[2] == 0
    assert fitted({16: 1.0}, 2).coefficients == (1.0, 0.0, 0.0)


def test_the_slope_is_the_power_of_the_last_doubling() -> None:
    assert slope({length: 3e-4 * length**2 for length in LENGTHS}, LENGTHS) == pytest.approx(2)
    assert slope(dict.fromkeys(LENGTHS, 0.7), LENGTHS) == 0


def test_the_convolution_reads_the_tokens_beside_and_no_others(tmp_path: Path) -> None:
    run = length_cost.convolution(length_models.write_convolution(tmp_path / "c.onnx", width=8, layers=2), threads=1)
    first, second = (np.array(run(ids))[0] for ids in ([5] * 9, [5] * 4 + [6] + [5] * 4))
    assert first.shape == (1, 8, 9)
    differing = np.flatnonzero((first != second).any(axis=(0, 1)))
    assert differing.tolist() == [2, 3, 4, 5, 6]  # two on either side, after two layers of three


def test_everything_is_measured_at_every_length_and_drawn(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length_cost, "ROWS", 2)
    costs = length_cost.measure(
        {"transformer": tiny_bundle}, length_models.write_convolution(tmp_path / "c.onnx"), LENGTHS,
        threads=1, rounds=2, repeats=2,
    )
    assert {name: sorted(times) for name, times in costs.steps.items()} == {"transformer": list(LENGTHS)}
    assert sorted(costs.encodings) == ["convolution", "self-attention"]
    assert all(len(values) == 4 for values in costs.steps["transformer"].values())
    length_plot.draw(costs, "tiny", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    text = length_cost.report(costs, LENGTHS)
    assert "| transformer |" in text
    assert "retention" not in text
    assert json.loads(json.dumps(costs.to_json()))["step_laws"].keys() == {"transformer"}


def test_state_is_what_the_server_allocates_for_a_row(tiny_bundle: Path) -> None:
    """Keys and values of two layers, four heads of 16, in float32."""
    model = read_model(tiny_bundle)
    assert [length_cost.state_bytes(model, length) for length in (32, 64, 128)] == [
        2 * 2 * 4 * 16 * 4 * length for length in (32, 64, 128)
    ]


def test_every_architecture_has_a_bundle_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("WIDTH", 32), ("HEADS", 2), ("LAYERS", 1)):
        monkeypatch.setattr(length_models, name, small)
    monkeypatch.setattr(length_cost, "ROWS", 2)
    told: list[str] = []
    bundles = length_cost.bundles_in(tmp_path, max(LENGTHS), told.append)
    names = ["transformer", "retention", "recurrent"]
    assert told == [f"exporting {name}" for name in names]
    costs = length_cost.measure(
        bundles, length_models.write_convolution(tmp_path / "c.onnx"), LENGTHS, threads=1, rounds=1, repeats=1
    )
    assert list(costs.steps) == names
    assert sorted(costs.encodings) == ["GRU", "convolution", "self-attention"]
    assert {name for name, state in costs.state.items() if state[max(LENGTHS)] > state[min(LENGTHS)]} == {"transformer"}
