"""Rules before a search, against whole vocabularies: what is asked of the engine is enough, and changes no answer."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_reference import Reference, Tokens
from rules_reference import END, START, banned, decode, own_log_probs, processed, random_model, renormalised
from seqserve_server.decoding import search_of
from seqserve_server.decoding.beam import BeamSearch
from seqserve_server.decoding.drawing import kept, uniform
from seqserve_server.decoding.greedy import GreedySearch
from seqserve_server.decoding.ruled import RuledSearch
from seqserve_server.decoding.search import Sampling, SearchSettings, Stopping

RULES: dict[str, st.SearchStrategy[Any]] = {
    "repetition_penalty": st.sampled_from([1.0, 1.0, 1.3, 0.7, 5.0]),
    "no_repeat_ngram_size": st.sampled_from([0, 0, 1, 2, 3]),
    "suppressed": st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=3).map(tuple), max_size=5).map(tuple),
}
LENGTHS = {"max_new_tokens": st.integers(1, 12), "min_new_tokens": st.integers(0, 5)}
PROMPTS = st.sampled_from([(START,), (END,), (START, 5), (END, 7, 7)])


def clipped(values: dict[str, Any]) -> SearchSettings:
    return SearchSettings(END, **{**values, "min_new_tokens": min(values["min_new_tokens"], values["max_new_tokens"])})


@settings(max_examples=300)
@given(st.integers(0, 10**6), st.fixed_dictionaries({**LENGTHS, **RULES, "forced_end": st.booleans()}), PROMPTS)
def test_greedy_takes_the_best_that_the_rules_leave(seed: int, values: dict[str, Any], prompt: Tokens) -> None:
    chosen, model = clipped(values), random_model(seed, 12)
    (found,) = decode(model, chosen, prompt)
    tokens: list[int] = []
    log_probs: list[float] = []
    while len(log_probs) < chosen.max_new_tokens:
        logits = model(tuple(tokens))
        scores = processed(logits, (*prompt, *tokens), chosen)
        if len(log_probs) < chosen.min_new_tokens and (np.delete(scores, END) > -np.inf).any():
            scores[END] = -np.inf
        last = len(log_probs) + 1 == chosen.max_new_tokens
        token = END if last and chosen.forced_end else int(np.argmax(scores))
        log_probs.append(0.0 if last and chosen.forced_end else float(own_log_probs(logits)[token]))
        if token == END:
            break
        tokens.append(token)
    assert found.token_ids == tokens
    assert found.log_probs == pytest.approx(log_probs, abs=1e-6), "the model's own, whatever was banned"


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6), PROMPTS,
    st.fixed_dictionaries({
        **LENGTHS, **RULES, "beam_size": st.integers(2, 4), "length_penalty": st.sampled_from([0.0, 1.0]),
        "stopping": st.sampled_from(list(Stopping)),
    }),
)
def test_beams_are_those_of_the_definition_over_processed_scores(
    seed: int, prompt: Tokens, values: dict[str, Any]
) -> None:
    model = random_model(seed, 16)
    chosen = clipped({**values, "num_hypotheses": values["beam_size"], "min_new_tokens": 0})
    reference = Reference(chosen, lambda each: processed(own_log_probs(model(each)), (*prompt, *each), chosen))
    stuck = False
    while not reference.over:
        for each in reference.live:
            left = set(range(16)) - banned((*prompt, *each.token_ids), chosen, 16)
            stuck |= not left
        reference.step()
    if stuck:  # the definition above gives it another score
        return
    expected, found = reference.answers(), decode(model, chosen, prompt)
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6), PROMPTS,
    st.fixed_dictionaries({
        **LENGTHS, **RULES, "beam_size": st.integers(2, 4), "length_penalty": st.sampled_from([0.0, 1.0]),
        "stopping": st.just(Stopping.PATIENCE), "repetition_penalty": st.sampled_from([1.3, 0.7, 5.0]),
    }),
)
def test_with_renormalisation_log_probabilities_are_those_of_what_is_left(
    seed: int, prompt: Tokens, values: dict[str, Any]
) -> None:
    model = random_model(seed, 16)
    chosen = clipped({**values, "num_hypotheses": values["beam_size"], "renormalise": True})
    reference = Reference(chosen, lambda each: renormalised(model(each), each, prompt, chosen))
    while not reference.over:
        for each in reference.live:
            if len(banned((*prompt[1:], *each.token_ids), chosen, 16) | {END}) == 16:
                return  # the definition above gives the end another score
        reference.step()
    expected, found = reference.answers(), decode(model, chosen, prompt)
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.fixed_dictionaries({**LENGTHS, **RULES}), PROMPTS)
def test_renormalisation_of_a_greedy_search_changes_log_probabilities_alone(
    seed: int, values: dict[str, Any], prompt: Tokens
) -> None:
    chosen, model = clipped({**values, "renormalise": True}), random_model(seed, 12)
    (found,) = decode(model, chosen, prompt)
    behind = dataclasses.replace(chosen, renormalise=False)
    (plain,) = decode(model, behind, prompt[1:])
    assert found.token_ids == plain.token_ids
    if type(search_of(chosen, prompt)) is RuledSearch:
        for place, log_prob in enumerate(found.log_probs[: len(found.token_ids)]):
            left = renormalised(model(tuple(found.token_ids[:place])), tuple(found.token_ids[:place]), prompt, chosen)
            assert log_prob == pytest.approx(left[found.token_ids[place]], abs=1e-6)


SAMPLES: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.3, 1.0, 2.0]), "top_k": st.sampled_from([0, 1, 3, 40, 500]),
    "top_p": st.sampled_from([1.0, 0.9, 0.4]), "seed": st.integers(0, 2**64 - 1),
}


@settings(max_examples=300)
@given(
    st.integers(0, 10**6), st.fixed_dictionaries({**LENGTHS, **RULES}), st.builds(Sampling, **SAMPLES), PROMPTS
)
def test_a_draw_is_that_of_the_whole_distribution(
    seed: int, values: dict[str, Any], sampling: Sampling, prompt: Tokens
) -> None:
    chosen, model = clipped({**values, "sampling": sampling}), random_model(seed, 30)
    (found,) = decode(model, chosen, prompt)
    assert sampling.seed is not None
    tokens: list[int] = []
    for step in range(chosen.max_new_tokens):
        scores = processed(model(tuple(tokens)), (*prompt, *tokens), chosen)
        if step < chosen.min_new_tokens and (np.delete(scores, END) > -np.inf).any():
            scores[END] = -np.inf
        places, weights = kept(scores, sampling)
        place = np.searchsorted(np.cumsum(weights / weights.sum()), uniform(sampling.seed, step), side="right")
        token = int(places[min(int(place), len(places) - 1)])
        if token == END:
            break
        tokens.append(token)
    assert found.token_ids == tokens


@settings(max_examples=200)
@given(
    st.integers(0, 10**6),
    st.fixed_dictionaries({**LENGTHS, **RULES, "beam_size": st.integers(1, 3), "renormalise": st.booleans()}),
    st.none() | st.builds(Sampling, **SAMPLES), PROMPTS, st.randoms(use_true_random=False),
)
def test_candidates_that_others_asked_for_change_no_bit(
    seed: int, values: dict[str, Any], sampling: Sampling | None, prompt: Tokens, random: Any
) -> None:
    beams = 1 if sampling is not None else values["beam_size"]
    chosen, model = clipped({**values, "beam_size": beams, "sampling": sampling}), random_model(seed, 300)
    alone = decode(model, chosen, prompt)
    assert decode(model, chosen, prompt, lambda: random.randrange(200), whole=True) == alone


def test_without_rules_nothing_stands_before_a_search() -> None:
    assert type(search_of(SearchSettings(END, 9), (START,))) is GreedySearch
    assert type(search_of(SearchSettings(END, 9, beam_size=2), (START,))) is BeamSearch
    rules: list[dict[str, Any]] = [
        {"repetition_penalty": 1.1}, {"no_repeat_ngram_size": 2}, {"suppressed": ((4,),)},
        {"sampling": Sampling(seed=1)},
    ]
    for rule in rules:
        assert type(search_of(SearchSettings(END, 9, **rule), (START,))) is RuledSearch


def test_what_is_asked_of_the_engine() -> None:
    def asked(**rules: Any) -> tuple[int, bool]:
        search = search_of(SearchSettings(END, 9, **rules), (START, 7))
        return search.candidates, search.wants_logits

    assert asked(suppressed=((5,),)) == (10, False), "as many more as there are bans, rounded up"
    assert asked(suppressed=((5, 6),)) == (2, False), "nothing is banned yet"
    assert asked(suppressed=((7, 6),)) == (10, False)
    assert asked(no_repeat_ngram_size=1, beam_size=4) == (13, False)
    assert asked(no_repeat_ngram_size=2, beam_size=4) == (5, False)
    assert asked(suppressed=tuple((token,) for token in range(100, 1000))) == (1, True)
    assert asked(repetition_penalty=1.1, beam_size=4) == (1, True)
    assert asked(no_repeat_ngram_size=2, renormalise=True) == (2, False), "nothing is banned yet"
    assert asked(no_repeat_ngram_size=2, renormalise=True, min_new_tokens=1) == (1, True)
    assert asked(sampling=Sampling(top_k=50, seed=1)) == (50, False)
    assert asked(sampling=Sampling(top_k=500, seed=1)) == (1, True)
    assert asked(sampling=Sampling(top_k=0, seed=1)) == (1, True)


def test_a_hypothesis_that_no_token_may_follow_ends() -> None:
    everything = tuple((token,) for token in range(12))
    for beams in (1, 3):
        chosen = SearchSettings(END, 9, min_new_tokens=4, beam_size=beams, suppressed=everything)
        for found in decode(random_model(3, 12), chosen, (START,)):
            assert (found.token_ids, found.ended) == ([], True)
            assert found.log_probs == pytest.approx([own_log_probs(random_model(3, 12)(()))[END]], abs=1e-6)


def test_a_seed_gives_one_answer_and_seeds_give_many() -> None:
    model = random_model(1, 50)
    answers = {
        seed: decode(model, SearchSettings(END, 12, sampling=Sampling(2.0, seed=seed)), (START,))[0].token_ids
        for seed in range(40)
    }
    assert len({tuple(each) for each in answers.values()}) > 30
    again = decode(model, SearchSettings(END, 12, sampling=Sampling(2.0, seed=7)), (START,))
    assert again[0].token_ids == answers[7]
