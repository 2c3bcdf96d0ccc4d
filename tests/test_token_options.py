"""Options of rules and draws: what they imply, what contradicts them, and how that is said."""

import dataclasses
import json
from typing import Any

import pytest

from seqserve.bundle import BundleError, ModelDescription
from seqserve.search_defaults import SearchDefaults
from seqserve_server.admission import resolve_options
from seqserve_server.decoding.search import Sampling, SearchSettings
from seqserve_server.errors import InvalidRequest
from seqserve_server.search_options import Options, resolve_search
from seqserve_server.token_options import MAX_SUPPRESSED_IDS, seeded
from serving import describe

MODEL = describe()
HELD = SearchDefaults(repetition_penalty=1.2, no_repeat_ngram_size=3, temperature=0.7, top_k=50, top_p=0.9)
DRAWN = dataclasses.replace(HELD, sample=True)
BEAMS = dataclasses.replace(HELD, beam_size=4)
DEFAULT = Sampling(0.7, 50, 0.9)


def resolved(defaults: SearchDefaults, **options: Any) -> SearchSettings:
    return resolve_search(Options(**options), dataclasses.replace(MODEL, search=defaults), 32)


@pytest.mark.parametrize(("options", "changes"), [
    ({}, {}),
    ({"repetition_penalty": 1}, {"repetition_penalty": 1.0}),
    ({"repetition_penalty": 1000.0}, {"repetition_penalty": 1000.0}),
    ({"repetition_penalty": 0.001}, {"repetition_penalty": 0.001}),
    ({"no_repeat_ngram_size": 0}, {"no_repeat_ngram_size": 0}),
    ({"no_repeat_ngram_size": 2**31 - 1}, {"no_repeat_ngram_size": 2**31 - 1}),
    ({"suppress_tokens": [[5], [6, 7]]}, {"suppressed": ((5,), (6, 7))}),
    ({"suppress_tokens": []}, {}),
    ({"suppress_tokens": [[0] * MAX_SUPPRESSED_IDS]}, {"suppressed": ((0,) * MAX_SUPPRESSED_IDS,)}),
    ({"return_logprobs": True}, {}),
    ({"sample": False}, {}),
])
def test_rules_are_the_callers_or_the_bundles(options: dict[str, Any], changes: dict[str, Any]) -> None:
    expected = SearchSettings(1, 64, repetition_penalty=1.2, no_repeat_ngram_size=3)
    assert resolved(HELD, **options) == dataclasses.replace(expected, **changes)


@pytest.mark.parametrize(("defaults", "options", "expected"), [
    (HELD, {}, None),
    (HELD, {"sample": True}, DEFAULT),
    (HELD, {"temperature": 2}, Sampling(2.0, 50, 0.9)),
    (HELD, {"top_k": 0}, Sampling(0.7, 0, 0.9)),
    (HELD, {"top_p": 1}, Sampling(0.7, 50, 1.0)),
    (HELD, {"seed": 0}, Sampling(0.7, 50, 0.9, 0)),
    (HELD, {"seed": 2**64 - 1, "temperature": 0.001}, Sampling(0.001, 50, 0.9, 2**64 - 1)),
    (SearchDefaults(), {"sample": True}, Sampling()),
    (DRAWN, {}, DEFAULT),
    (DRAWN, {"sample": True, "top_k": 3}, Sampling(0.7, 3, 0.9)),
    (DRAWN, {"sample": False}, None),
    (DRAWN, {"beam_size": 1}, DEFAULT),
    (DRAWN, {"beam_size": 4}, None),
    (BEAMS, {"sample": True}, DEFAULT),
    (BEAMS, {"top_p": 0.5}, Sampling(0.7, 50, 0.5)),
    (BEAMS, {}, None),
])
def test_when_tokens_are_drawn(defaults: SearchDefaults, options: dict[str, Any], expected: Sampling | None) -> None:
    search = resolved(defaults, **options)
    assert search.sampling == expected
    assert search.beam_size == (1 if expected is not None else options.get("beam_size", defaults.beam_size))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("options", "field", "said"), [
    ({"repetition_penalty": 0.0}, "repetition_penalty", "0.0 is outside 0.001..1000"),
    ({"repetition_penalty": -1.0}, "repetition_penalty", "-1.0 is outside 0.001..1000"),
    ({"repetition_penalty": NAN}, "repetition_penalty", "nan is outside 0.001..1000"),
    ({"repetition_penalty": INF}, "repetition_penalty", "inf is outside 0.001..1000"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size", "-1 is below 0"),
    ({"temperature": 0.0}, "temperature", "0.0 is outside 0.001..1000"),
    ({"temperature": NAN}, "temperature", "nan is outside 0.001..1000"),
    ({"top_k": -1}, "top_k", "-1 is below 0"),
    ({"top_p": 0.0}, "top_p", "0.0 is not over 0 and at most 1"),
    ({"top_p": 1.01}, "top_p", "1.01 is not over 0 and at most 1"),
    ({"top_p": NAN}, "top_p", "nan is not over 0 and at most 1"),
    ({"seed": -1}, "seed", "-1 is outside 0..18446744073709551615"),
    ({"seed": 2**64}, "seed", "18446744073709551616 is outside 0..18446744073709551615"),
    ({"sample": False, "top_p": 0.5}, "top_p", "it is for drawing tokens, and options.sample is false"),
    ({"sample": False, "seed": 4}, "seed", "it is for drawing tokens, and options.sample is false"),
    ({"sample": True, "beam_size": 4}, "sample", "it is for a beam of 1, and options.beam_size is 4"),
    ({"temperature": 0.5, "beam_size": 2}, "temperature", "it is for a beam of 1, and options.beam_size is 2"),
    ({"sample": True, "num_hypotheses": 2}, "num_hypotheses", "2 is over 1, and one answer is drawn (options.sample)"),
    ({"sample": True, "beam_size": 0}, "beam_size", "0 is outside 1..32"),
    ({"sample": True, "num_hypotheses": 0}, "num_hypotheses", "0 is outside 1..options.beam_size 1"),
    ({"suppress_tokens": [[5], []]}, "suppress_tokens[1]", "empty: at least one id is needed"),
    ({"suppress_tokens": [[5], [6, 29]]}, "suppress_tokens[1]", "id 29 is outside 0..28"),
    ({"suppress_tokens": [[-1]]}, "suppress_tokens[0]", "id -1 is outside 0..28"),
    ({"suppress_tokens": [[5, 6]] * 2049}, "suppress_tokens", "4098 ids are over 4096"),
])
def test_a_refusal_names_the_option_and_its_limit_or_what_contradicts_it(
    options: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolved(BEAMS if "num_hypotheses" in options else HELD, **options)
    assert (caught.value.field, caught.value.message) == (f"options.{field}", said)


def test_log_probabilities_are_told_only_where_asked_for() -> None:
    answers = {given: resolve_options(Options(return_logprobs=given), MODEL, 32) for given in (None, False, True)}
    assert [each.return_logprobs for each in answers.values()] == [False, False, True]


def test_a_seed_is_given_where_one_is_missing() -> None:
    greedy = SearchSettings(1, 9)
    assert seeded(greedy, 7) is greedy
    drawn = dataclasses.replace(greedy, sampling=DEFAULT)
    assert seeded(drawn, 7).sampling == Sampling(0.7, 50, 0.9, 7)
    assert seeded(seeded(drawn, 7), 8).sampling == Sampling(0.7, 50, 0.9, 7)


@pytest.mark.parametrize(("search", "said"), [
    ({"repetition_penalty": 0}, "repetition_penalty: 0 is outside 0.001..1000"),
    ({"repetition_penalty": "1"}, "repetition_penalty: '1' is not a number"),
    ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size: 1.5 is not an integer"),
    ({"sample": 1}, "sample: 1 is not true or false"),
    ({"temperature": -1}, "temperature: -1 is outside 0.001..1000"),
    ({"top_k": -3}, "top_k: -3 is below 0"),
    ({"top_p": 2}, "top_p: 2 is not over 0 and at most 1"),
    ({"sample": True, "beam_size": 4}, "sample: true with beam_size 4: only one beam draws tokens"),
])
def test_a_bundle_with_impossible_defaults_is_refused(search: dict[str, Any], said: str) -> None:
    values = {**json.loads(MODEL.to_json()), "search": search}
    with pytest.raises(BundleError) as caught:
        ModelDescription.from_json(json.dumps(values))
    assert str(caught.value) == f"model.json: search.{said}"
