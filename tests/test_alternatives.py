"""Alternatives are searches behind different first tokens; a favoured prefix is a mixture of two distributions."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_reference import Reference, Tokens
from rules_reference import END, START, Logits, decode, own_log_probs, random_model
from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import Hypothesis, SearchSettings, Stopping

SIZE = 12
SEARCHES = {
    "max_new_tokens": st.integers(1, 8), "min_new_tokens": st.integers(0, 4), "beam_size": st.integers(1, 3),
    "length_penalty": st.sampled_from([0.0, 1.0]), "stopping": st.sampled_from(list(Stopping)),
    "forced_end": st.booleans(),
}


def clipped(values: dict[str, Any], **more: Any) -> SearchSettings:
    return SearchSettings(
        END, **{**values, "min_new_tokens": min(values["min_new_tokens"], values["max_new_tokens"])}, **more
    )


def behind(model: Logits, token: int) -> Logits:
    return lambda generated: model((token, *generated))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.fixed_dictionaries(SEARCHES), st.integers(1, 5), st.sampled_from([0.0, 0.1, 0.5]))
def test_alternatives_are_the_best_first_tokens_each_with_a_search_behind_it(
    seed: int, values: dict[str, Any], count: int, least: float
) -> None:
    chosen = clipped(values, alternatives=count, num_hypotheses=count, least_probability=least)
    model = random_model(seed, SIZE)
    found = decode(model, chosen, (START,))
    if chosen.max_new_tokens == 1 and chosen.forced_end:
        assert found == [Hypothesis([], [0.0], 0.0, ended=False)]
        return
    own = own_log_probs(model(()))
    first = [token for token in np.argsort(-own, kind="stable").tolist() if token != END][:count]
    first = [token for place, token in enumerate(first) if not place or np.exp(own[token]) >= least]
    assert [each.token_ids[0] for each in found] == first
    rest = dataclasses.replace(
        chosen, alternatives=0, num_hypotheses=1, max_new_tokens=chosen.max_new_tokens - 1,
        min_new_tokens=max(chosen.min_new_tokens - 1, 0), least_probability=0.0,
    )
    for token, answer in zip(first, found, strict=True):
        expected = Hypothesis([], [], 0.0, ended=False)
        if rest.max_new_tokens:
            (expected,) = decode(behind(model, token), rest, (START, token))
        assert answer.token_ids == [token, *expected.token_ids]
        assert answer.log_probs == pytest.approx([own[token], *expected.log_probs])
        assert answer.score == pytest.approx(own[token] + expected.score)
        assert answer.ended == expected.ended


def test_an_end_is_an_alternative_only_where_nothing_else_may_come() -> None:
    everything = tuple((token,) for token in range(SIZE) if token != END)
    chosen = SearchSettings(END, 5, alternatives=3, num_hypotheses=3, suppressed=everything)
    (only,) = decode(random_model(1, SIZE), chosen, (START,))
    assert (only.token_ids, only.ended) == ([], True)


def test_what_an_ended_request_gets_is_the_first_alternative_so_far() -> None:
    search, model = search_of(SearchSettings(END, 9, alternatives=2, num_hypotheses=2), (START,)), random_model(4, SIZE)
    assert search.so_far() == Hypothesis([], [], 0.0, ended=False)
    own = own_log_probs(model(()))
    ranked = np.argsort(-own, kind="stable").tolist()
    step = search.advance([ranked], [own[ranked].tolist()])
    assert step.stable == [step.live[0].token]
    assert search.so_far().token_ids == step.stable
    assert [each.parent for each in step.live] == [0, 0]


def mixed(model: Logits, favoured: Tokens, bias: float) -> Logits:
    """The model with a favoured beginning, as probabilities are mixed."""

    def log_probs(generated: Tokens) -> Any:
        own = own_log_probs(model(generated))
        if len(generated) >= len(favoured) or favoured[: len(generated)] != generated:
            return own
        probabilities = (1 - bias) * np.exp(own)
        probabilities[favoured[len(generated)]] += bias
        return np.log(probabilities)

    return log_probs


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6), st.fixed_dictionaries(SEARCHES), st.lists(st.integers(2, SIZE - 1), max_size=4).map(tuple),
    st.floats(0.01, 0.99),
)
def test_a_favoured_prefix_is_mixed_into_the_models_own_distribution(
    seed: int, values: dict[str, Any], favoured: Tokens, bias: float
) -> None:
    chosen = clipped(
        {**values, "min_new_tokens": 0, "forced_end": False, "beam_size": values["beam_size"] + 1},
        favoured=favoured, prefix_bias=bias if favoured else 0.0,
    )
    model = random_model(seed, SIZE)
    reference = Reference(chosen, mixed(model, favoured, bias))
    while not reference.over:
        reference.step()
    expected, (found,) = reference.answers()[0], decode(model, chosen, (START,))
    assert found.token_ids == expected.token_ids
    assert found.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_much_favour_is_followed_and_rules_come_first(beam_size: int) -> None:
    model = random_model(3, SIZE)
    chosen = SearchSettings(
        END, 6, beam_size=beam_size, favoured=(5, 7, 9), prefix_bias=0.999, suppressed=((7,),), length_penalty=0.0
    )
    (found,) = decode(model, chosen, (START,))
    assert found.token_ids[0] == 5
    assert 7 not in found.token_ids
    plain = dataclasses.replace(chosen, suppressed=())
    assert decode(model, plain, (START,))[0].token_ids[:3] == [5, 7, 9]


