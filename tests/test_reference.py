"""The reference decoder: with and without cache, alone and in a batch."""

from typing import Any

import numpy as np
import pytest

from seqserve_export import reference
from tiny_model import EOS, tiny_model

SOURCES = [[5, 6, 7, EOS], [9, EOS], [EOS], [20, 21, 22, 23, 24, EOS], [30, 31, EOS]]
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm, learned positions": {"norm_position": "pre", "final_norm": True, "positions": "learned"},
    "T5": {
        "norm": "rms", "norm_position": "pre", "final_norm": True, "positions": "relative", "gated_ffn": True,
        "attention_bias": False, "ffn_bias": False, "attention_scale": 1.0, "shared_embeddings": True,
    },
}


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    values: dict[str, Any] = request.param
    return values


def test_the_cache_changes_nothing(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    cached = reference.greedy(model, SOURCES, 24)
    plain = reference.greedy(model, SOURCES, 24, cache=False)
    for one, other in zip(cached, plain, strict=True):
        assert one.token_ids == other.token_ids
        assert one.finish_reason == other.finish_reason
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    assert len({tuple(result.token_ids) for result in cached}) > 1, "the sources should matter"


def test_a_batch_gives_what_each_source_gives_alone(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    for source, together in zip(SOURCES, reference.greedy(model, SOURCES, 12), strict=True):
        (alone,) = reference.greedy(model, [source], 12)
        assert alone.token_ids == together.token_ids
        np.testing.assert_allclose(alone.log_probs, together.log_probs, atol=1e-4)


def test_teacher_forcing_greedy_tokens_reproduces_their_logits(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    decoded = reference.greedy(model, SOURCES, 12)
    targets = [[*result.token_ids, *[EOS] * (result.finish_reason == "eos")] for result in decoded]
    for result, logits in zip(decoded, reference.step_logits(model, SOURCES, targets), strict=True):
        np.testing.assert_allclose(logits, result.logits, atol=1e-4)


def test_log_probabilities_belong_to_the_generated_tokens_and_the_end() -> None:
    for result in reference.greedy(tiny_model(), SOURCES, 12):
        assert len(result.log_probs) == len(result.token_ids) + (result.finish_reason == "eos") == len(result.logits)
        shifted = result.logits - result.logits.max(axis=-1, keepdims=True)
        best = -np.log(np.exp(shifted).sum(axis=-1))  # greedy: the chosen token has the largest logit
        np.testing.assert_allclose(result.log_probs, best, atol=1e-5)


def test_the_end_token_waits_for_the_minimum_length() -> None:
    model = tiny_model(output_bias=True)
    assert model.output_bias is not None
    model.output_bias[EOS] = 100.0
    (eager,) = reference.greedy(model, [[5, EOS]], 10)
    assert (eager.token_ids, eager.finish_reason) == ([], "eos")
    (patient,) = reference.greedy(model, [[5, EOS]], 10, min_new_tokens=4)
    assert len(patient.token_ids) == 4
    assert patient.finish_reason == "eos"


def test_the_limit_counts_the_end_token() -> None:
    model = tiny_model(output_bias=True)
    assert model.output_bias is not None
    model.output_bias[EOS] = 100.0
    (cut,) = reference.greedy(model, [[5, EOS]], 4, min_new_tokens=4)
    assert (len(cut.token_ids), cut.finish_reason) == (4, "length")


def test_encoder_states_of_a_short_source_ignore_its_long_neighbour() -> None:
    model = tiny_model()
    together = reference.encoder_states(model, SOURCES)
    for source, states in zip(SOURCES, together, strict=True):
        assert states.shape == (len(source), 32)
        np.testing.assert_allclose(reference.encoder_states(model, [source])[0], states, atol=1e-5)
