"""Beam search: small cases by hand, then any case against the definition in ``beam_reference``."""

import math
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beam_reference import Model, Reference, Tokens, candidates_of, grown
from seqserve_server.decoding.beam import BeamSearch
from seqserve_server.decoding.choose import search_of
from seqserve_server.decoding.greedy import GreedySearch
from seqserve_server.decoding.search import Advance, Continuation, Hypothesis, Search, SearchSettings, Stopping

END = 0


def by_last_token(table: list[list[float]]) -> Model:
    """A model whose next token depends on the last one only: probabilities, at first those of row 0."""
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array(table))
    return lambda tokens: np.maximum(log_probs[tokens[-1] if tokens else 0], -1e9)


def search_all(search: Search, model: Model) -> tuple[list[Hypothesis], list[Advance]]:
    """Run a search to its end."""
    live: list[Tokens] = [()]
    steps: list[Advance] = []
    while True:
        steps.append(search.advance(*candidates_of(search, model, live)))
        if steps[-1].found is not None:
            return steps[-1].found, steps
        live = grown(live, steps[-1].live)


def answers(model: Model, chosen: SearchSettings) -> list[tuple[list[int], float]]:
    """Tokens and scores."""
    found, _ = search_all(BeamSearch(chosen), model)
    return [(each.token_ids, round(each.score, 3)) for each in found]


# The example of docs/decisions/0009-stopping-rules.md. After "a" the end is likely; "b" is always followed by more.
LOOP = by_last_token([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.0, 0.9, 0.1]])
A, B = 1, 2
TWO = SearchSettings(END, 8, beam_size=2, patience=2.0)


@pytest.mark.parametrize(("stopping", "tokens", "probability", "steps"), [
    (Stopping.FULL, [A], 0.6 * 0.5, 3),
    (Stopping.PATIENCE, [A, B, A], 0.6 * 0.4 * 0.9 * 0.5, 5),
    (Stopping.HEURISTIC, [A, B, A, B, A], 0.6 * 0.36 * 0.36 * 0.5, 6),
    (Stopping.EXHAUSTIVE, [A, B, A, B, A, B, A], 0.6 * 0.36 * 0.36 * 0.36 * 0.5, 8),
])
def test_the_four_rules_can_come_to_four_answers(
    stopping: Stopping, tokens: list[int], probability: float, steps: int
) -> None:
    found, advances = search_all(BeamSearch(replace(TWO, stopping=stopping)), LOOP)
    assert found[0].token_ids == tokens
    assert found[0].score == pytest.approx(math.log(probability) / (len(tokens) + 1))
    assert found[0].ended
    assert len(advances) == steps


def test_without_a_length_penalty_patience_ends_with_the_best_candidate_whatever_the_patience() -> None:
    for patience in (0.5, 1.0, 2.0):
        chosen = replace(TWO, stopping=Stopping.PATIENCE, length_penalty=0.0, patience=patience)
        found, advances = search_all(BeamSearch(chosen), LOOP)
        assert [each.token_ids for each in found] == [[A]]
        assert found[0].score == pytest.approx(math.log(0.3))
        assert len(advances) == 2


@pytest.mark.parametrize(("patience", "ended"), [(0.5, 1), (0.75, 2), (1.0, 2), (1.2, 2), (1.25, 3), (1.5, 3)])
def test_patience_times_beams_is_rounded_half_up(patience: float, ended: int) -> None:
    one_a_step = by_last_token([[0.4, 0.6], [0.4, 0.6]])
    chosen = replace(TWO, stopping=Stopping.PATIENCE, patience=patience, max_new_tokens=20)
    _, advances = search_all(BeamSearch(chosen), one_a_step)
    assert len(advances) == ended


def test_at_the_limit_the_live_compete_with_the_ended() -> None:
    chosen = replace(TWO, max_new_tokens=2, num_hypotheses=2)
    found, advances = search_all(BeamSearch(chosen), LOOP)
    assert len(advances) == 2
    assert [(each.token_ids, each.ended) for each in found] == [([A], True), ([B, A], False)]
    assert [round(sum(each.log_probs), 6) for each in found] == [round(math.log(0.3), 6), round(math.log(0.27), 6)]


def test_a_forced_end_costs_nothing_and_is_not_the_models() -> None:
    chosen = replace(TWO, max_new_tokens=2, num_hypotheses=2, forced_end=True)
    found, _ = search_all(BeamSearch(chosen), LOOP)
    assert [(each.token_ids, each.ended) for each in found] == [([A], False), ([B], False)]
    assert found[0].log_probs == pytest.approx([math.log(0.6), 0.0])
    assert found[0].score == pytest.approx(math.log(0.6) / 2)


def test_no_end_comes_before_the_least_number_of_tokens_and_its_probability_is_not_shared_out() -> None:
    chosen = replace(TWO, max_new_tokens=3, min_new_tokens=2, num_hypotheses=2, stopping=Stopping.FULL)
    assert answers(LOOP, chosen) == [
        ([A, B, A], round(math.log(0.6 * 0.4 * 0.9) / 3, 3)), ([B, A], round(math.log(0.3 * 0.9 * 0.5) / 3, 3)),
    ]


def test_only_the_first_of_the_candidates_may_end() -> None:
    model = by_last_token([[0.1, 0.5, 0.4], [0.3, 0.4, 0.3], [0.01, 0.01, 0.98]])
    step = BeamSearch(replace(TWO, max_new_tokens=9)).advance(*candidates_of(BeamSearch(TWO), model, [()]))
    assert [each.token for each in step.live] == [A, B]  # the end was third, and is gone


def test_equal_scores_go_by_token_and_then_by_parent() -> None:
    search = BeamSearch(SearchSettings(END, 9, beam_size=3))
    first = search.advance([[3, 4, 5, 6]], [[-1.0, -1.0, -1.0, -1.0]])
    assert [each.token for each in first.live] == [3, 4, 5]
    second = search.advance([[5, 7, 8, 9], [7, 8, 9, 10], [5, 8, 9, 10]], [[-1.0, -1.0, -1.0, -1.0]] * 3)
    assert [(each.token, each.parent) for each in second.live] == [(5, 0), (5, 2), (7, 0)]


def test_where_fewer_sequences_exist_fewer_are_found() -> None:
    chosen = replace(TWO, max_new_tokens=1, beam_size=4, num_hypotheses=4)
    assert [tokens for tokens, _ in answers(LOOP, chosen)] == [[A], [B], []]
    assert [tokens for tokens, _ in answers(LOOP, replace(chosen, forced_end=True))] == [[]]


def test_an_answer_is_told_as_soon_as_nothing_can_overtake_it() -> None:
    chosen = SearchSettings(END, 50, beam_size=2, num_hypotheses=2, length_penalty=0.0)
    model = by_last_token([[0.0, 0.9, 0.1], [0.9, 0.05, 0.05], [0.01, 0.01, 0.98]])
    _, advances = search_all(BeamSearch(chosen), model)
    assert [each.stable for each in advances[:2]] == [[], [A]]  # "b" lives on, for the second place
    assert len(advances) > 3
    assert not any(each.stable for each in advances[2:])


def test_a_live_hypothesis_that_can_only_draw_level_does_not_keep_the_answer_back() -> None:
    search = BeamSearch(replace(TWO, length_penalty=0.0))
    search.advance([[A, B, 3]], [[-0.5, -0.75, -9.0]])
    step = search.advance([[END, 3, 4], [3, 4, END]], [[-0.5, -9.0, -9.0], [-0.25, -0.5, -9.0]])
    assert step == Advance([Continuation(1, 3), Continuation(1, 4)], [A])


def test_an_overtaken_answer_keeps_nothing_back() -> None:
    search = BeamSearch(replace(TWO, max_new_tokens=20, length_penalty=2.0, stopping=Stopping.EXHAUSTIVE))
    search.advance([[A, B, 3]], [[-1.0, -1.2, -9.0]])
    ended = search.advance([[END, 3, 4], [3, 4, END]], [[-0.5, -9.0, -9.0], [-0.1, -0.4, -9.0]])
    assert ended == Advance([Continuation(1, 3), Continuation(1, 4)], [])  # "a" has ended, and only "b" lives on
    better = search.advance([[END, 5, 6], [5, 6, END]], [[-0.1, -0.2, -9.0], [-0.1, -9.0, -9.0]])
    assert better == Advance([Continuation(0, 5), Continuation(1, 5)], [B])


def test_the_early_exit_remembers_that_the_best_candidate_ended() -> None:
    search = BeamSearch(replace(TWO, num_hypotheses=2, length_penalty=0.0, stopping=Stopping.PATIENCE))
    assert search.advance([[END, A, B]], [[-0.5, -1.0, -1.2]]).found is None
    step = search.advance([[A, END, B], [A, B, END]], [[-0.1, -0.2, -9.0], [-1.0, -9.0, -9.0]])
    assert step.found is not None
    assert [each.token_ids for each in step.found] == [[], [A]]


def test_so_far_is_the_best_as_if_the_limit_were_here() -> None:
    search = BeamSearch(TWO)
    assert search.so_far() == Hypothesis([], [], 0.0, False)
    live: list[Tokens] = [()]
    for best, ended in (([A], False), ([A], True), ([A, B, A], False)):
        live = grown(live, search.advance(*candidates_of(search, LOOP, live)).live)
        so_far = search.so_far()
        assert so_far.token_ids == best
        assert so_far.score == pytest.approx(sum(so_far.log_probs) / len(so_far.log_probs))
        assert so_far.ended is ended


def test_one_beam_is_greedy_search() -> None:
    assert isinstance(search_of(replace(TWO, beam_size=1), [0]), GreedySearch)
    assert isinstance(search_of(TWO, [0]), BeamSearch)


@st.composite
def any_search(draw: st.DrawFn, *, beams: int = 4) -> tuple[SearchSettings, Model]:
    """Settings, and a model of 2 to 6 tokens that goes by the last token and the position; half are full of ties."""
    size, most = draw(st.integers(2, 6)), draw(st.integers(1, 7))
    if draw(st.booleans()):
        table = draw(arrays(np.int8, (most, size, size), elements=st.integers(0, 6))) / -4.0
    else:
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        table = np.log(random.dirichlet([0.7] * size, (most, size)) + 1e-9).astype(np.float32).astype(np.float64)
        table = np.minimum(table, 0.0)
    chosen = SearchSettings(
        draw(st.integers(0, size - 1)), most, draw(st.integers(0, most)), draw(st.booleans()),
        count := draw(st.integers(1, beams)), draw(st.integers(1, count)),
        draw(st.sampled_from([0.0, 0.6, 1.0, 2.0, -0.5])), draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0])),
        draw(st.sampled_from(Stopping)),
    )
    return chosen, lambda tokens: table[len(tokens), tokens[-1] if tokens else 0]


MANY = settings(max_examples=500, deadline=None, derandomize=True)


@MANY
@given(any_search())
def test_every_search_finds_what_the_definition_finds(case: tuple[SearchSettings, Model]) -> None:
    chosen, model = case
    search, reference = BeamSearch(chosen), Reference(chosen, model)
    live: list[Tokens] = [()]
    while True:
        step = search.advance(*candidates_of(search, model, live))
        reference.step()
        assert (step.found is not None) == reference.over
        if step.found is not None:
            break
        live = grown(live, step.live)
        assert live == [each.token_ids for each in reference.live]
    assert step.found == reference.answers()
    assert not step.live


@MANY
@given(any_search(beams=1))
def test_with_one_beam_the_heuristic_rule_is_greedy_search(case: tuple[SearchSettings, Model]) -> None:
    chosen, model = replace(case[0], stopping=Stopping.HEURISTIC), case[1]
    by_beam, advances = search_all(BeamSearch(chosen), model)
    greedy, steps = search_all(GreedySearch(chosen), model)
    assert by_beam == greedy
    assert [each.stable for each in advances] == [each.stable for each in steps]


def common(sequences: list[Tokens]) -> Tokens:
    """The tokens that all begin with."""
    return tuple(ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*sequences, strict=False)))


@MANY
@given(any_search())
def test_what_is_stable_is_never_taken_back_and_never_late(case: tuple[SearchSettings, Model]) -> None:
    chosen, model = case
    search, reference = BeamSearch(chosen), Reference(chosen, model)
    live: list[Tokens] = [()]
    told: Tokens = ()
    while True:
        step = search.advance(*candidates_of(search, model, live))
        reference.step()
        told += tuple(step.stable)
        if step.found is not None:
            break
        live = grown(live, step.live)
        assert tuple(search.so_far().token_ids)[: len(told)] == told
        flattering = (chosen.max_new_tokens if chosen.length_penalty > 0 else len(live[0]) + 1) ** chosen.length_penalty
        best = reference.found[:1]
        able = [each for each in reference.live if not best or each.total / flattering > best[0].score]
        assert told == common([each.token_ids for each in [*able, *best]])
    assert list(told) == step.found[0].token_ids
    assert search.so_far() == step.found[0]


@pytest.mark.parametrize(("first", "forced", "live", "ends_at_once"), [
    ([0.3, 0.6, 0.1], 0, [A, B], True),
    ([0.3, 0.6, 0.1], 1, [A], False),
    ([0.6, 0.3, 0.1], 1, [A, B], True),
])
def test_behind_a_forced_prefix_nothing_but_the_best_ends_at_once_in_bundles_from_ctranslate2(
    first: list[float], forced: int, live: list[int], ends_at_once: bool
) -> None:
    model = by_last_token([first, [0.5, 0.1, 0.4], [0.0, 0.9, 0.1]])
    chosen = replace(TWO, stopping=Stopping.PATIENCE, renormalise=True, extra_length=forced, coverage_penalty=1.0)
    found, advances = search_all(BeamSearch(chosen), model)
    assert advances[0].live == [Continuation(0, token) for token in live]
    assert ([] in [each.token_ids for each in found]) == ends_at_once
