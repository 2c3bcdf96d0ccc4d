"""What a family puts around sources and before targets: framing, prompts in the running batch, languages by request."""

from typing import Any

import grpc
import pytest

from arithmetic_engine import END, START, answer
from hand_loop import HandLoop, make_limits
from refusals import drained, refusal
from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE, Frame, Framing, LanguageError
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.request import FinishReason, Request
from seqserve_server.scheduler import Scheduler
from serving import ask, ask_stream, ids, serving

MANY = Framing(
    source_prefix=(SOURCE_LANGUAGE,), source_suffix=(END,), decoder_prompt=(END, TARGET_LANGUAGE),
    languages={"de": 20, "en": 21, "fr": 22}, default_source_language="en",
)


def test_languages_become_ids_where_the_family_puts_them() -> None:
    assert MANY.frame("fr", "de") == Frame((22,), (END,), (END, 20))
    assert MANY.frame(target_language="de") == Frame((21,), (END,), (END, 20)), "the default source language"
    assert MANY.frame("fr", "de").complete((5, 6)) == (22, 5, 6, END)
    assert MANY.example() == Frame((21,), (END,), (END, 20)), "a default where there is one, else the first code"


@pytest.mark.parametrize(("languages", "field", "said"), [
    (("en", None), TARGET_LANGUAGE, "is required, this model has several languages: de, en, fr"),
    (("en", "xx"), TARGET_LANGUAGE, "'xx' is not one of de, en, fr"),
    (("x" * 99, "de"), SOURCE_LANGUAGE, f"'{'x' * 40}' is not one of de, en, fr"),
])
def test_a_language_that_cannot_be_is_named_with_those_that_can(
    languages: tuple[str | None, str | None], field: str, said: str
) -> None:
    with pytest.raises(LanguageError) as caught:
        MANY.frame(*languages)
    assert (caught.value.field, str(caught.value)) == (field, said)


def test_a_model_without_languages_takes_none() -> None:
    one = Framing(source_suffix=(END,), decoder_prompt=(START,), languages={})
    assert one.frame() == one.example() == Frame((), (END,), (START,))
    with pytest.raises(LanguageError, match="'de' is given, but this model takes no target language"):
        one.frame(target_language="de")


def test_a_prompt_is_fed_a_token_a_step_beside_rows_that_choose() -> None:
    scheduler = Scheduler(make_limits(max_rows=2))
    scheduler.submit(Request(0, (5, END), (START,), SearchSettings(END, 4), stream=True))
    scheduler.submit(Request(1, (5, END), (START, 8, 9), SearchSettings(END, 4), stream=True))
    seen, spoken = [], []
    for step in range(4):
        plan = scheduler.plan(float(step))
        applied = scheduler.apply([[7, 8]] * 2, [[-1.0, -2.0]] * 2, None, float(step))
        seen.append((plan.tokens, plan.positions, applied.tokens, applied.joined))
        spoken.append([event.request_id for event in applied.events])
    assert seen == [
        ([START, START], [0, 0], 1, 1), ([7, 8], [1, 1], 1, 0), ([7, 9], [2, 2], 2, 1), ([7, 7], [3, 3], 2, 0),
    ]
    assert spoken == [[0], [0], [0, 1], [0, 0, 1]]


def test_the_least_and_the_most_count_generated_tokens_only() -> None:
    hand = HandLoop()
    prompt = (START, 4, 11)
    for least, most in ((0, 1), (0, 40), (12, 40), (3, 3)):
        number = hand.submit([5, 6, END], most, least, prompt=prompt)
        hand.run()
        assert hand.finished(number).token_ids == answer([5, 6, END], most, least, prompt=prompt)[0]


def test_a_forced_end_takes_the_last_place_and_is_still_a_limit() -> None:
    hand = HandLoop()
    ended, cut, only, bound = (
        hand.submit([5, 6, END], most, least, forced_end=True) for most, least in ((40, 0), (4, 0), (1, 0), (3, 3))
    )
    hand.run()
    assert (hand.finished(ended).reason, len(hand.finished(ended).token_ids)) == (FinishReason.EOS, 15)
    for number, tokens in ((cut, [14, 28, 27]), (only, []), (bound, [14, 28])):
        event = hand.finished(number)
        assert (event.token_ids, event.reason, event.log_probs[-1]) == (tokens, FinishReason.LENGTH, 0.0)


def multilingual() -> dict[str, Any]:
    return {
        "source_prefix": MANY.source_prefix, "decoder_prompt": MANY.decoder_prompt, "languages": dict(MANY.languages),
        "default_source_language": "en", "default_max_new_tokens": 40,
    }


async def test_a_request_names_its_languages_and_every_one_in_the_batch_has_its_own() -> None:
    async with serving(description=multilingual()) as served:
        info = (await served.stub.GetModelInfo(pb.GetModelInfoRequest())).models[0]
        assert (list(info.languages), info.defaults.source_language) == (["de", "en", "fr"], "en")
        assert not info.defaults.HasField("target_language")
        for target, prompt in (("de", (END, 20)), ("fr", (END, 22))):
            response = await served.stub.Generate(ask(ids(5, 6), ids(7), target_language=target))
            for result, content in zip(response.results, ((5, 6), (7,)), strict=True):
                expected, _, _ = answer([21, *content, END], 40, prompt=prompt)
                assert list(result.hypotheses[0].token_ids) == expected
        chunks = await drained(served.stub.GenerateStream(
            ask_stream(ids(5, 6), source_language="fr", target_language="en")
        ))
        assert [token for chunk in chunks for token in chunk.token_ids] == answer(
            [22, 5, 6, END], 40, prompt=(END, 21)
        )[0]


@pytest.mark.parametrize(("options", "field", "said"), [
    ({}, "options.target_language", "is required, this model has several languages: de, en, fr"),
    ({"target_language": "xx"}, "options.target_language", "'xx' is not one of de, en, fr"),
    ({"target_language": "de", "source_language": ""}, "options.source_language", "'' is not one of de, en, fr"),
])
async def test_a_missing_or_unknown_language_is_refused_with_the_list(
    options: dict[str, str], field: str, said: str
) -> None:
    async with serving(description=multilingual()) as served:
        error = await refusal(served.stub.Generate(ask(ids(5), **options)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in error.message
    assert said in error.message
