"""An error that rounding of the weights accounts for is no miss; any other is."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_export import reference
from seqserve_export.conditioning import FACTOR, Conditioning
from tiny_model import tiny_model

SOURCE, TARGET, PROMPT = (5, 6, 7, 1), [8, 9, 10], [2]
TOLERANCE = 1e-4


@pytest.fixture
def conditioning() -> Conditioning:
    return Conditioning(tiny_model(), TOLERANCE)


@pytest.fixture
def logits(conditioning: Conditioning) -> NDArray[np.float32]:
    return reference.step_logits(conditioning.model, [SOURCE], [TARGET], [PROMPT])[0]


def wrong(logits: NDArray[np.float32], row: int, by: float) -> NDArray[np.float32]:
    changed = logits.copy()
    changed[row, 3] += np.float32(by)
    return changed


def error(conditioning: Conditioning, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return conditioning.error(4, actual, expected, SOURCE, TARGET, PROMPT)


def test_a_well_conditioned_model_moves_by_less_than_any_limit(conditioning: Conditioning) -> None:
    moved = conditioning.moved(SOURCE, TARGET, PROMPT, 2)
    assert moved.shape == (2,)
    assert (moved > 0).all()
    assert (moved < TOLERANCE / FACTOR).all()


def test_what_rounding_does_not_account_for_counts(conditioning: Conditioning, logits: NDArray[np.float32]) -> None:
    assert error(conditioning, wrong(logits, 1, 5e-5), logits) == pytest.approx(5e-5, rel=1e-2)
    assert error(conditioning, wrong(logits, 1, 5e-4), logits) == pytest.approx(5e-4, rel=1e-2)
    assert math.isnan(error(conditioning, wrong(logits, 1, np.nan), logits))
    assert error(conditioning, logits[1:], logits) == np.inf
    assert conditioning.found == []


def test_what_rounding_accounts_for_is_noted_and_the_rest_still_counts(
    conditioning: Conditioning, logits: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditioning, "moved", lambda *given: np.array([1e-6, 1e-4, 1e-6]))
    both = wrong(wrong(logits, 1, 5e-4), 2, 3e-4)
    assert error(conditioning, both, logits) == pytest.approx(3e-4, rel=1e-2)
    (found,) = conditioning.found
    assert (found.source, found.position, found.moved) == (4, 1, 1e-4)
    assert found.error == pytest.approx(5e-4, rel=1e-2)
    assert error(conditioning, wrong(logits, 1, 2 * FACTOR * 1e-4), logits) > TOLERANCE
    # Log-probabilities move twice as far as logits; what is behind the target was chosen by nobody.
    expected = [-1.0, -1.0, -1.0, 0.0]
    actual = [-1.0, -1.0 + 1.9 * FACTOR * 1e-4, -1.0, 0.0]
    assert conditioning.log_prob_error(4, actual, expected, SOURCE, TARGET, PROMPT) == 0
    assert conditioning.log_prob_error(4, [*actual[:3], 0.5], expected, SOURCE, TARGET, PROMPT) == 0.5
    assert len(conditioning.found) == 1


def test_a_position_of_the_forced_target_is_another_than_that_of_the_decoded_one(
    conditioning: Conditioning, logits: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditioning, "moved", lambda *given: np.array([1e-6, 1e-4, 1e-6]))
    actual = wrong(logits, 1, 5e-4)
    assert conditioning.error(4, actual, logits, SOURCE, TARGET, PROMPT, forced=True) < TOLERANCE
    assert conditioning.at(4, forced=False) == {}, "that of the forced target excuses nothing here"
    assert error(conditioning, wrong(actual, 1, 2e-4), logits) < TOLERANCE
    forced, decoded = conditioning.found
    assert conditioning.at(4, forced=True) == {1: forced}
    assert conditioning.at(4, forced=False) == {1: decoded}
    assert decoded.error == pytest.approx(7e-4, rel=1e-2)


def test_an_error_without_bounds_counts_however_far_rounding_moves_the_logits(
    conditioning: Conditioning, logits: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditioning, "moved", lambda *given: np.full(3, np.inf))
    assert error(conditioning, wrong(logits, 1, np.inf), logits) == np.inf
    assert conditioning.found == []
