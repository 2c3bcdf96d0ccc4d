"""Answers that hold phrases: always, within the limit, and the best there is where the beam holds everything."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beam_reference import Tokens
from rules_reference import END, START, Logits, decode, own_log_probs, random_model
from seqserve_server.decoding.constrained import Phrases, Progress
from seqserve_server.decoding.search import SearchSettings, Stopping

SIZE = 12
PHRASES = st.lists(st.lists(st.integers(2, SIZE - 1), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


def holds(tokens: Tokens, phrase: Tokens) -> bool:
    return f",{','.join(map(str, phrase))}," in f",{','.join(map(str, tokens))},"


def followed(phrases: Phrases, tokens: Tokens) -> Progress:
    progress = phrases.begin()
    for token in tokens:
        progress = phrases.after(progress, token)
    return progress


def score_of(model: Logits, tokens: Tokens, chosen: SearchSettings, *, ended: bool) -> float:
    total = sum(float(own_log_probs(model(tokens[:place]))[token]) for place, token in enumerate(tokens))
    total += float(own_log_probs(model(tokens))[END]) if ended else 0.0
    return float(total / (len(tokens) + ended) ** chosen.length_penalty)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6), PHRASES.map(tuple), st.integers(0, 6), st.integers(2, 6), st.sampled_from([0.0, 1.0]),
    st.sampled_from(list(Stopping)), st.booleans(), st.sampled_from([(), ((4, 5),), ((7,),)]),
)
def test_every_answer_holds_every_phrase_and_says_its_own_score(
    seed: int, phrases: tuple[Tokens, ...], room: int, beam: int, penalty: float, stopping: Stopping, forced: bool,
    suppressed: tuple[Tokens, ...],
) -> None:
    assume(not any(holds(phrase, ban) for phrase in phrases for ban in suppressed))
    limit, model = sum(map(len, dict.fromkeys(phrases))) + room + forced, random_model(seed, SIZE)
    chosen = SearchSettings(
        END, limit, beam_size=beam, num_hypotheses=beam, length_penalty=penalty, stopping=stopping, forced_end=forced,
        required=phrases, suppressed=suppressed,
    )
    found = decode(model, chosen, (START,))
    assert found
    for answer in found:
        tokens = tuple(answer.token_ids)
        assert all(holds(tokens, phrase) for phrase in phrases)
        assert not any(token in tokens for (token,) in [ban for ban in suppressed if len(ban) == 1])
        assert len(tokens) + answer.ended <= limit
        if not (forced and len(tokens) + 1 == limit):
            assert answer.score == pytest.approx(score_of(model, tokens, chosen, ended=answer.ended), abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=2).map(tuple), max_size=2),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_a_beam_that_holds_everything_finds_the_best_answer_with_the_phrases(
    seed: int, phrases: list[Tokens], penalty: float
) -> None:
    model, limit = random_model(seed, 5), 4
    chosen = SearchSettings(
        END, limit, beam_size=400, length_penalty=penalty, stopping=Stopping.EXHAUSTIVE,
        required=(*map(tuple, phrases), (3,)),
    )
    tokens = [0, 2, 3, 4]
    possible = [
        (score_of(model, each, chosen, ended=ended), each)
        for size in range(limit + 1) for each in itertools.product(tokens, repeat=size)
        for ended in (True, False)
        if (size < limit if ended else size == limit) and all(holds(each, phrase) for phrase in chosen.required)
    ]
    if not possible:  # together too long: refused at the door
        return
    assume(sum(map(len, dict.fromkeys(chosen.required))) <= limit)
    (found,) = decode(model, chosen, (START,))
    assert found.score == pytest.approx(max(possible)[0], abs=1e-5)


def test_a_phrase_within_another_comes_with_it() -> None:
    phrases = Phrases([(5, 6), (6,), (5, 6, 7)])
    assert phrases.tokens == 3
    assert followed(phrases, (2, 5, 6, 7)).missing == ()
    achieved = [followed(phrases, tokens).achieved for tokens in ((2,), (2, 5), (5, 6), (5, 5), (6, 5, 6, 8))]
    assert achieved == [0, 1, 2, 1, 0]
    assert phrases.next_tokens(followed(phrases, (2, 5))) == {5: 1, 6: 2}


SHORT = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@settings(max_examples=500)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4), SHORT)
def test_progress_is_what_the_definition_counts_after_every_token(given_phrases: list[Tokens], tokens: Tokens) -> None:
    phrases = Phrases(given_phrases)
    outer = [one for one in dict.fromkeys(given_phrases)
             if not any(one != other and holds(other, one) for other in given_phrases)]

    def defined(sequence: Tokens) -> int:
        missing = [phrase for phrase in outer if not holds(sequence, phrase)]
        begun = (size for phrase in missing for size in range(1, len(phrase)) if sequence[-size:] == phrase[:size])
        return phrases.tokens - sum(map(len, missing)) + max(begun, default=0)

    progress = followed(phrases, tokens)
    assert progress.achieved == defined(tokens)
    following = phrases.next_tokens(progress)
    for token in range(4):
        assert following.get(token, progress.whole) == defined((*tokens, token))
        assert phrases.after(progress, token).achieved == defined((*tokens, token))


@pytest.mark.parametrize("beam", [2, 5])
def test_phrases_are_found_though_the_model_would_never_say_them(beam: int) -> None:
    def stubborn(generated: Tokens) -> Any:
        logits = random_model(3, SIZE)(generated)
        logits[[4, 5, 6]] -= 50
        return logits

    chosen = SearchSettings(END, 12, beam_size=beam, required=((4, 5, 6), (6, 4)))
    (found,) = decode(stubborn, chosen, (START,))
    assert holds(tuple(found.token_ids), (4, 5, 6))
    assert holds(tuple(found.token_ids), (6, 4))


def test_where_a_ban_leaves_no_way_to_a_phrase_the_phrase_goes_before() -> None:
    chosen = SearchSettings(END, 2, beam_size=3, required=((4,), (5,)), suppressed=((4, 5), (5, 4)))
    (found,) = decode(random_model(8, SIZE), chosen, (START,))
    assert sorted(found.token_ids) == [4, 5]
    roomy = SearchSettings(END, 6, beam_size=3, required=((4,), (5,)), suppressed=((4, 5), (5, 4)))
    (found,) = decode(random_model(8, SIZE), roomy, (START,))
    assert not holds(tuple(found.token_ids), (4, 5))
    assert not holds(tuple(found.token_ids), (5, 4))
