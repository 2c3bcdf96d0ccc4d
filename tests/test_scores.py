"""Luong's scores and the windows of local attention, each key and query on its own."""

import math

import numpy as np
import pytest
import torch

from seqserve_export.model.scores import (
    additive_score,
    concat_score,
    dot_score,
    gaussian_factor,
    general_score,
    monotonic_centre,
    predictive_centre,
    visible_keys,
    window,
)

random = np.random.default_rng(0)
QUERY, KEY = random.standard_normal((2, 3, 4)), random.standard_normal((2, 5, 4))
NARROW = random.standard_normal((2, 5, 3))
VECTOR, GENERAL, CONCAT = random.standard_normal(6), random.standard_normal((4, 3)), random.standard_normal((6, 7))
PAIRS = [(row, place, key) for row in range(2) for place in range(3) for key in range(5)]


def test_dot_score_multiplies_query_and_key() -> None:
    found = dot_score(torch.tensor(QUERY), torch.tensor(KEY), 0.5)
    for row, place, key in PAIRS:
        expected = 0.5 * sum(QUERY[row, place, i] * KEY[row, key, i] for i in range(4))
        assert found[row, place, key].item() == pytest.approx(expected)


def test_general_score_puts_a_matrix_between_them() -> None:
    found = general_score(torch.tensor(QUERY), torch.tensor(NARROW), torch.tensor(GENERAL))
    for row, place, key in PAIRS:
        expected = sum(
            QUERY[row, place, i] * GENERAL[i, j] * NARROW[row, key, j] for i in range(4) for j in range(3)
        )
        assert found[row, place, key].item() == pytest.approx(expected)


def test_concat_score_equals_a_layer_over_query_and_key_joined() -> None:
    found = concat_score(*(torch.tensor(each) for each in (QUERY, NARROW, CONCAT, VECTOR)))
    for row, place, key in PAIRS:
        joined = np.concatenate([QUERY[row, place], NARROW[row, key]])
        expected = sum(VECTOR[h] * math.tanh(CONCAT[h] @ joined) for h in range(6))
        assert found[row, place, key].item() == pytest.approx(expected)


def test_additive_score_squashes_the_sum_of_both() -> None:
    vector = VECTOR[:4]
    found = additive_score(torch.tensor(QUERY), torch.tensor(KEY), torch.tensor(vector), 2.0)
    for row, place, key in PAIRS:
        expected = sum(vector[h] * math.tanh(2 * (QUERY[row, place, h] + KEY[row, key, h])) for h in range(4))
        assert found[row, place, key].item() == pytest.approx(expected)


def test_the_monotonic_window_moves_with_the_target_and_waits_at_the_last_token() -> None:
    lengths = torch.tensor([3, 6])
    centre = monotonic_centre(torch.tensor([[0, 2, 5]]), lengths)
    assert centre.tolist() == [[0.0, 2.0, 2.0], [0.0, 2.0, 5.0]]
    seen = window(centre, 1, 6) & visible_keys(lengths, 6)
    assert [[key for key in range(6) if seen[0, place, key]] for place in range(3)] == [[0, 1], [1, 2], [1, 2]]
    assert [[key for key in range(6) if seen[1, place, key]] for place in range(3)] == [[0, 1], [1, 2, 3], [4, 5]]


def test_the_predicted_centre_is_a_share_of_the_valid_length() -> None:
    lengths = torch.tensor([5, 2])
    centre = predictive_centre(torch.tensor(QUERY), torch.tensor(VECTOR[:4]), lengths)
    for row, place in [(row, place) for row in range(2) for place in range(3)]:
        logit = sum(VECTOR[h] * math.tanh(QUERY[row, place, h]) for h in range(4))
        assert centre[row, place].item() == pytest.approx(lengths[row].item() / (1 + math.exp(-logit)))


@pytest.mark.parametrize("reach", [1, 3])
def test_the_window_and_its_bell_are_those_of_the_paper(reach: int) -> None:
    places = [[0.0, 1.4], [2.5, 5.0]]
    centre = torch.tensor(places, dtype=torch.float64)
    seen, factor = window(centre, reach, 6), gaussian_factor(centre, reach, 6)
    for row, place, key in [(row, place, key) for row in range(2) for place in range(2) for key in range(6)]:
        distance = key - places[row][place]
        assert seen[row, place, key].item() == (-reach <= distance <= reach)
        assert factor[row, place, key].item() == pytest.approx(math.exp(-(distance**2) / (2 * (reach / 2) ** 2)))


def test_no_window_within_valid_lengths_is_empty() -> None:
    lengths = torch.arange(1, 9)
    share = torch.linspace(0, 1, 50)[None] * lengths[:, None]  # up to the length itself, where a sigmoid is 1
    assert (window(share, 1, 8) & visible_keys(lengths, 8)).any(-1).all()
    steps = monotonic_centre(torch.arange(30)[None].expand(8, 30), lengths)
    assert (window(steps, 1, 8) & visible_keys(lengths, 8)).any(-1).all()
