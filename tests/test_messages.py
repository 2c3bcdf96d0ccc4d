"""What the wire says and what it means: options in, hypotheses and defaults out."""

import dataclasses
from typing import Any

import pytest

from arithmetic_engine import END, START, ArithmeticEngine
from seqserve.search_defaults import STOPPINGS, SearchDefaults
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.admission import Resolved
from seqserve_server.answers import Asked, answer_of
from seqserve_server.decoding.search import Hypothesis, Sampling, SearchSettings, Stopping
from seqserve_server.errors import InvalidRequest
from seqserve_server.messages import read_inputs, read_options, write_answer, write_model_info
from seqserve_server.request import Finished, FinishReason, Request, Times
from seqserve_server.search_options import Options
from seqserve_server.served_model import ServedModel
from serving import ids, make_config, make_model, make_tokenizer

TIMES = Times(1.0, 2.0, 4.0, 5.0, 9.0)
FOUND = [
    Hypothesis([5, 6], [-0.5, -0.25, -0.75], -0.5, ended=True),
    Hypothesis([7], [-1.0, -1.5], -1.25, ended=True),
    Hypothesis([], [-4.0], -4.0, ended=True),
]


MODEL = make_model(make_config(max_rows=8), ArithmeticEngine(1 << 20))


def options_of(message: pb.GenerationOptions) -> Options:
    return read_options(message, MODEL, 99)


def requests_of(inputs: list[pb.Input], options: pb.GenerationOptions, model: ServedModel) -> list[Request]:
    read = read_inputs(inputs, options, model, field="inputs", max_text_bytes=99, deadline=4.0)
    return [each.request for each in read]


def asked(search: SearchSettings, **options: Any) -> Asked:
    resolved = Resolved(search, MODEL.description.framing.frame(), **options)
    return Asked(Request(1, (5, 6, 7, END), resolved.prompt, search), resolved)


def test_unset_options_stay_unset_and_zero_is_a_value() -> None:
    assert options_of(pb.GenerationOptions()) == Options()
    zeros = pb.GenerationOptions(
        max_new_tokens=0, min_new_tokens=0, source_language="", target_language="", beam_size=0, num_hypotheses=0,
        length_penalty=0.0, patience=0.0, repetition_penalty=0.0, no_repeat_ngram_size=0, sample=False,
        temperature=0.0, top_k=0, top_p=0.0, seed=0, return_logprobs=False,
    )
    assert options_of(zeros) == Options(
        0, 0, "", "", 0, 0, 0.0, 0.0, None, 0.0, 0, None, False, 0.0, 0, 0.0, 0, False
    )


def test_every_option_of_the_message_is_read() -> None:
    message = pb.GenerationOptions(
        max_new_tokens=7, min_new_tokens=2, source_language="en", target_language="de", beam_size=4, num_hypotheses=3,
        length_penalty=0.2, patience=1.5, stopping=pb.STOPPING_PATIENCE, repetition_penalty=1.2, no_repeat_ngram_size=3,
        suppress_tokens=[pb.TokenIds(ids=[5]), pb.TokenIds(ids=[6, 7]), pb.TokenIds()], sample=True, temperature=0.7,
        top_k=50, top_p=0.9, seed=2**64 - 1, return_logprobs=True, prefix=pb.Target(text="c d"), prefix_bias=0.5,
        coverage_penalty=0.2, return_alternatives=True, min_alternative_probability=0.01, replace_unknowns=True,
        return_alignment=True, required_phrases=[pb.Target(text="c"), pb.Target(token_ids=pb.TokenIds(ids=[6, 7]))],
        banned_phrases=[pb.Target(text="d e")], max_source_tokens=9, truncate=True, stop=["a b", "c"], priority=-3,
    )
    assert len(message.ListFields()) == len(pb.GenerationOptions.DESCRIPTOR.fields), "an option is missing here"
    read = options_of(message)
    assert read.stop is not None
    assert read.stop.texts == ("a b", "c")
    assert dataclasses.replace(read, stop=None) == Options(
        7, 2, "en", "de", 4, 3, 0.2, 1.5, Stopping.PATIENCE, 1.2, 3, [[5], [6, 7], []], True, 0.7, 50, 0.9, 2**64 - 1,
        True, (5, 6), 0.5, True, 0.01, 0.2, True, True, ((5,), (6, 7)), ((6, 7),), 9, True, None, -3,
    )


def test_every_stopping_rule_has_a_number_and_an_unspecified_one_is_unset() -> None:
    names = pb.Stopping.DESCRIPTOR.values_by_name
    rules = {name: options_of(pb.GenerationOptions(stopping=name)).stopping for name in names}
    expected: dict[str, Stopping | None] = {f"STOPPING_{rule.name}": rule for rule in Stopping}
    assert rules == {"STOPPING_UNSPECIFIED": None, **expected}


def test_a_stopping_rule_of_a_newer_client_is_refused() -> None:
    message = pb.GenerationOptions.FromString(bytes([9 << 3, 77]))
    with pytest.raises(InvalidRequest) as caught:
        options_of(message)
    assert str(caught.value) == (
        "options.stopping: 77 is none of heuristic (1), full (2), exhaustive (3), patience (4)"
    )


def test_a_request_carries_its_search() -> None:
    model = make_model(make_config(max_rows=8), ArithmeticEngine(1 << 20), forced_end=True)
    options = pb.GenerationOptions(max_new_tokens=9, beam_size=3, num_hypotheses=2, stopping=pb.STOPPING_FULL)
    (request,) = requests_of([ids(5)], options, model)
    assert (request.source, request.prompt, request.deadline) == ((5, END), (START,), 4.0)
    assert request.search == SearchSettings(END, 9, 0, True, 3, 2, stopping=Stopping.FULL)
    assert request.target_length == 9
    with pytest.raises(InvalidRequest, match=r"options\.beam_size: 9 is outside 1\.\.8"):
        requests_of([ids(5)], pb.GenerationOptions(beam_size=9), model)


def test_an_answer_has_every_hypothesis_best_first() -> None:
    sent = asked(SearchSettings(END, 9))
    result = write_answer(answer_of(Finished(1, FinishReason.EOS, FOUND, TIMES), sent, make_tokenizer()))
    assert [(list(each.token_ids), each.text, list(each.tokens), each.score) for each in result.hypotheses] == [
        ([5, 6], "c d", ["c", "d"], -0.5), ([7], "e", ["e"], -1.25), ([], "", [], -4.0),
    ]
    assert (result.finish_reason, result.input_token_count, result.output_token_count) == (pb.FINISH_REASON_EOS, 4, 3)
    assert result.timing.total_seconds == 8.0
    assert not result.HasField("seed")
    assert not any(each.token_log_probs for each in result.hypotheses)
    bare = write_answer(answer_of(Finished(1, FinishReason.LENGTH, FOUND, TIMES), sent, None))
    assert [(list(each.token_ids), each.text, list(each.tokens)) for each in bare.hypotheses] == [
        ([5, 6], "", []), ([7], "", []), ([], "", []),
    ]
    assert bare.finish_reason == pb.FINISH_REASON_LENGTH


def test_log_probabilities_are_told_on_request_and_the_seed_where_there_is_one() -> None:
    drawn = asked(SearchSettings(END, 9, sampling=Sampling(seed=2**63)), return_logprobs=True)
    result = write_answer(answer_of(Finished(1, FinishReason.EOS, FOUND, TIMES), drawn, None))
    assert [list(each.token_log_probs) for each in result.hypotheses] == [[-0.5, -0.25, -0.75], [-1.0, -1.5], [-4.0]]
    assert result.seed == 2**63


def test_every_input_has_a_seed_of_its_own_unless_the_caller_gives_one() -> None:
    model = make_model(make_config(), ArithmeticEngine(1 << 20))
    for options, count in ((pb.GenerationOptions(top_k=5), 3), (pb.GenerationOptions(seed=0), 1)):
        requests = requests_of([ids(5)] * 3, options, model)
        seeds = {request.search.sampling and request.search.sampling.seed for request in requests}
        assert len(seeds) == count
        assert None not in seeds
    assert seeds == {0}


def test_a_finished_request_speaks_for_its_best_hypothesis() -> None:
    ended = Finished(1, FinishReason.EOS, FOUND, TIMES)
    assert (ended.token_ids, ended.log_probs, ended.score) == ([5, 6], [-0.5, -0.25, -0.75], -0.5)


def test_model_info_shows_the_search_that_an_unset_option_means() -> None:
    search = SearchDefaults(beam_size=6, length_penalty=0.2, patience=1.1, stopping="patience")
    for max_rows, beam_size, most in ((64, 6, 32), (4, 4, 4)):
        model = make_model(make_config(max_rows=max_rows), ArithmeticEngine(1 << 20), search=search)
        info = write_model_info(model, 9, 99)
        defaults = info.defaults
        assert (defaults.beam_size, defaults.num_hypotheses, defaults.stopping) == (
            beam_size, 1, pb.STOPPING_PATIENCE
        )
        assert (defaults.length_penalty, defaults.patience) == (0.2, 1.1), "no rounding to float32"
        assert info.limits.max_beam_size == most


@pytest.mark.parametrize("stopping", STOPPINGS)
@pytest.mark.parametrize("drawing", [
    {"beam_size": 5, "temperature": 0.5}, {"sample": True, "temperature": 0.5, "top_k": 4, "top_p": 0.25},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 4, "top_k": 50},
])
def test_defaults_that_a_caller_sends_back_mean_the_same(stopping: str, drawing: dict[str, Any]) -> None:
    search = SearchDefaults(length_penalty=2, patience=1.5, stopping=stopping, **drawing)
    model = make_model(make_config(), ArithmeticEngine(1 << 20), search=search)
    defaults = write_model_info(model, 9, 99).defaults
    assert defaults.HasField("patience") == (stopping == "patience"), "to other rules it means nothing"
    unset, given = (
        requests_of([ids(5)], options, model)[0].search
        for options in (pb.GenerationOptions(), defaults)
    )
    assert (unset.sampling is None) == (given.sampling is None) == ("sample" not in drawing)
    if unset.sampling is not None:
        assert given.sampling is not None
        assert dataclasses.replace(unset.sampling, seed=1) == dataclasses.replace(given.sampling, seed=1)
    assert dataclasses.replace(unset, patience=given.patience, sampling=given.sampling) == given
