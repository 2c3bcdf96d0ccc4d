"""Names, kinds and sources of decoding options in the Open Inference Protocol."""

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import ArithmeticEngine
from infer_requests import infer
from seqserve_server.errors import InputTooLong, InvalidRequest
from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.parameters import ALIASES, OPTIONS, RESERVED, as_called, read_parameters
from seqserve_server.reading import named_options
from seqserve_server.search_options import Options
from serving import make_config, make_model

MODEL = make_model(make_config(max_rows=8), ArithmeticEngine(1 << 20))
# One value of each option, as JSON has it, and what it comes to.
VALUES: dict[str, Any] = {
    "max_new_tokens": 7, "min_new_tokens": 2, "source_language": "en", "target_language": "de", "beam_size": 4,
    "num_hypotheses": 3, "length_penalty": 0.5, "patience": 2.0, "stopping": "full", "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 3, "suppress_tokens": [4, [5, 6]], "sample": True, "temperature": 0.5, "top_k": 5,
    "top_p": 0.75, "seed": 2**64 - 1, "prefix": "b a", "prefix_bias": 0.25, "return_alternatives": True,
    "min_alternative_probability": 0.125, "coverage_penalty": 0.5, "replace_unknowns": True,
    "required_phrases": ["a", ["b", "c"], [5]], "banned_phrases": ["q"], "max_source_tokens": 9, "truncate": True,
    "stop": ["x", "y"], "priority": -3,
}
NOT_TOLD = {"return_logprobs", "return_alignment"}


def sent(parameters: dict[str, Any]) -> Any:
    """As a request has them."""
    return infer("c", **parameters).parameters


def test_every_option_of_the_native_service_has_a_name_here() -> None:
    assert set(OPTIONS) == {entry.name for entry in dataclasses.fields(Options)}
    assert set(VALUES) == set(OPTIONS) - NOT_TOLD
    assert set(ALIASES.values()) <= set(OPTIONS)
    assert not set(ALIASES) & set(OPTIONS)


@pytest.mark.parametrize("name", VALUES)
def test_an_option_given_as_json_reaches_the_search(name: str) -> None:
    call = read_parameters({}, json.dumps({name: VALUES[name]}))
    assert call.options == {name: VALUES[name]}
    assert call.called == {name: f"sampling_parameters.{name}"}
    options = named_options(call.options, MODEL)
    assert getattr(options, name) is not None
    assert dataclasses.replace(options, **{name: None}) == Options()


@pytest.mark.parametrize("name", [
    name for name, value in VALUES.items() if not isinstance(value, list) and name not in RESERVED
])
def test_an_option_given_as_a_parameter_is_the_same_and_may_be_a_string(name: str) -> None:
    value = VALUES[name]
    given_as = {name: pb.InferParameter(uint64_param=value)} if name == "seed" else sent({name: value})
    assert read_parameters(given_as, None).options == {name: value}
    assert read_parameters(sent({name: str(value)}), None).options == {name: value}


@pytest.mark.parametrize("name", ["stop", "required_phrases", "banned_phrases"])
def test_a_single_text_stands_for_a_list_of_one(name: str) -> None:
    assert read_parameters(sent({name: "a b"}), None).options == {name: ["a b"]}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_names_that_others_use_mean_the_same(alias: str, name: str) -> None:
    value = VALUES[name] if name != "seed" else 7
    assert read_parameters(sent({alias: value}), None).options == {name: value}
    assert read_parameters({}, json.dumps({alias: value})).called == {name: f"sampling_parameters.{alias}"}


def test_reserved_names_are_let_through_and_two_of_them_mean_something() -> None:
    values = {**dict.fromkeys(RESERVED, 1), "triton_whatever": "x"}
    assert read_parameters(sent(values), None) == read_parameters({}, None)
    call = read_parameters(sent({"timeout": 1_500_000, "triton_enable_empty_final_response": True}), None)
    assert (call.timeout, call.empty_final, call.options) == (1.5, True, {})
    assert read_parameters(sent({"timeout": 0}), None).timeout is None


def test_null_in_json_is_unset() -> None:
    assert read_parameters({}, '{"seed": null, "top_k": 4}').options == {"top_k": 4}


REFUSED: dict[str, tuple[dict[str, Any], str | None, str, str]] = {
    "an unknown name": ({"max_length": 4}, None, "parameters.max_length", "no such parameter; there are max_new_t"),
    "an unknown name in JSON": ({}, '{"presence_penalty": 1}', "sampling_parameters.presence_penalty", "no such"),
    "a name that is no name": ({"a\nb": 4}, None, "parameters.'a\\nb'", "no such parameter"),
    "one option twice": ({"max_tokens": 4}, '{"max_new_tokens": 4}', "sampling_parameters.max_new_tokens",
                         "parameters.max_tokens says it already"),
    "two names for one": ({"num_beams": 4, "beam_size": 4}, None, "parameters.num_beams", "parameters.beam_size says"),
    "a fraction": ({"max_tokens": 4.5}, None, "parameters.max_tokens", "4.5 is not a whole number"),
    "a fraction that is whole": ({"max_tokens": 4.0}, None, "parameters.max_tokens", "4.0 is not a whole number"),
    "true for a number": ({"max_tokens": True}, None, "parameters.max_tokens", "True is not a whole number"),
    "true for a fraction": ({"top_p": True}, None, "parameters.top_p", "True is not a number"),
    "a word for a number": ({"top_p": "high"}, None, "parameters.top_p", "'high' is not a number"),
    "a number for a switch": ({"sample": 1}, None, "parameters.sample", "1 is neither true nor false"),
    "a number for a text": ({"stop": 1}, None, "parameters.stop", "1 is not a text"),
    "over 32 bits": ({}, '{"top_k": 2147483648}', "sampling_parameters.top_k", "2147483648 is outside"),
    "a negative seed": ({"seed": -1}, None, "parameters.seed", "-1 is outside 0..18446744073709551615"),
    "a number without end": ({}, '{"length_penalty": 1' + "0" * 4000 + "}", "sampling_parameters.length_penalty",
                             "is not a number"),
    "more digits than are read": ({}, '{"length_penalty": 1' + "0" * 5000 + "}", "sampling_parameters", "not JSON"),
    "ids as a parameter": ({"suppress_tokens": "4,5"}, None, "parameters.suppress_tokens", "is not a list of ids"),
    "a fraction among ids": ({}, '{"suppress_tokens": [4, [5, 6.5]]}', "sampling_parameters.suppress_tokens",
                             "is not a whole number"),
    "texts and ids mixed": ({}, '{"prefix": ["a", 4]}', "sampling_parameters.prefix", "is not a text"),
    "half a character": ({}, '{"stop": "\\ud800"}', "sampling_parameters.stop", "lone surrogate"),
    "log-probabilities": ({"return_logprobs": True}, None, "parameters.return_logprobs", "no tensor here tells"),
    "an alignment": ({}, '{"return_alignment": true}', "sampling_parameters.return_alignment", "no tensor here"),
    "a negative timeout": ({"timeout": -1}, None, "parameters.timeout", "-1 is outside"),
    "no JSON": ({}, "max_tokens=4", "sampling_parameters", "not JSON: Expecting value"),
    "no object": ({}, "[1]", "sampling_parameters", "no object"),
    "NaN": ({}, '{"top_p": NaN}', "sampling_parameters", "NaN is no JSON"),
    "a key twice": ({}, '{"top_k": 1, "top_k": 2}', "sampling_parameters", "top_k comes twice"),
    "JSON too deep": ({}, '{"top_k": ' + "[" * 60_000, "sampling_parameters", "not JSON"),
    "JSON too long": ({}, " " * 65537, "sampling_parameters", "65537 bytes are over 65536"),
    "too many": ({f"triton_{place}": 1 for place in range(65)}, None, "parameters", "65 are over 64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_parameter_may_be_is_named(case: str) -> None:
    parameters, sampling, field, said = REFUSED[case]
    with pytest.raises(InvalidRequest) as caught:
        read_parameters(sent(parameters), sampling)
    assert caught.value.field == field
    assert said in caught.value.message
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"parameters\.top_k: it has no value"):
        read_parameters({"top_k": pb.InferParameter()}, None)


def test_errors_say_what_the_caller_said() -> None:
    called = {"beam_size": "parameters.num_beams", "num_hypotheses": "sampling_parameters.n"}
    error = as_called(InvalidRequest("options.num_hypotheses", "3 is over options.beam_size 2"), called)
    assert str(error) == "sampling_parameters.n: 3 is over parameters.num_beams 2"
    error = as_called(InvalidRequest("options.stop[2]", "it is for a beam, options.top_k"), called)
    assert str(error) == "parameters.stop[2]: it is for a beam, parameters.top_k"
    long = as_called(InputTooLong("text_input[3].text", 40, 32), called)
    assert (type(long), long.field, str(long)[:24]) == (InputTooLong, "text_input[3]", "text_input[3]: 40 tokens")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*OPTIONS, *ALIASES]), JSON, max_size=4))
def test_any_json_is_read_or_refused_by_name(values: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequest):
        named_options(read_parameters({}, json.dumps(values)).options, MODEL)
