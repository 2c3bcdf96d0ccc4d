"""Answers that end at a text: against a plain search of the whole, as a search, and through the server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arithmetic_engine import END, START
from fake_server import FakeServer
from refusals import refusal
from rules_reference import random_model
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_cli.main import main
from seqserve_client import AsyncClient, InvalidInput
from seqserve_server.admission import resolve_options
from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import Hypothesis, Sampling, SearchSettings
from seqserve_server.decoding.stop_texts import StoppingText, StopTexts
from seqserve_server.errors import InvalidRequest
from seqserve_server.inputs import read_stop
from seqserve_server.request import FinishReason
from seqserve_server.search_options import Options
from seqserve_server.tokenizer import IncrementalDetokenizer
from serving import PENCIL_IDS, PENCIL_TEXT, ask, ask_stream, describe, make_tokenizer, serving

TOKENIZER = make_tokenizer()
# Tokens of several characters, of none, and two that are certain only when the next one comes.
PIECES = ["a", "b", "ab", "ba", "c", "", "aab", "?a", "?b"]
TEXTS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3)
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=12)


class Pieces:
    """A growing text of ``PIECES``; what begins with "?" is held until the next token."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, ids: Sequence[int]) -> str:
        text = ""
        for each in ids:
            text, self._held = text + self._held, ""
            if PIECES[each].startswith("?"):
                self._held = PIECES[each][1:]
            else:
                text += PIECES[each]
        return text

    def rest(self) -> str:
        held, self._held = self._held, ""
        return held


def whole(tokens: Sequence[int]) -> str:
    return "".join(PIECES[each].lstrip("?") for each in tokens)


def first_stop(text: str, stops: Sequence[str], behind: int) -> tuple[int, int] | None:
    """Beginning and end of the occurrence that ends first, and of those the longest."""
    for end in range(behind + 1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return end - max(found), end
    return None


@settings(max_examples=500)
@example([0, 0, 0, 1, 4], ["aab"], [])
@example([0, 1, 0, 1, 0, 0, 4], ["ababaa", "bb"], [])
@example([0, 1, 0, 1, 0, 1, 0, 0], ["ababaa"], [0, 1])
@given(TOKENS, TEXTS, TOKENS.map(lambda tokens: [each for each in tokens if each < 7]))
def test_the_text_is_cut_where_a_search_of_the_whole_says(
    tokens: list[int], stops: list[str], prefix: list[int]
) -> None:
    stop = StopTexts.of(stops, Pieces)
    behind = StopTexts(stop.texts, stop.failures, Pieces, tuple(prefix))
    text = whole([*prefix, *tokens])
    found = first_stop(text, stops, len(whole(prefix)))
    expected = text if found is None else text[: found[0]]
    assert behind.answer(tokens) == expected
    growing = StoppingText(behind)
    told = ""
    for each in tokens:
        told += growing.push([each])
        assert expected.startswith(told), "it was taken back"
    assert told + growing.finish() == expected
    assert growing.stopped == (found is not None)


@given(st.text("ab", min_size=1, max_size=12))
def test_a_table_has_the_longest_beginning_that_each_one_ends_with(text: str) -> None:
    (table,) = StopTexts.of([text], Pieces).failures
    for length, fallback in enumerate(table, 1):
        begun = text[:length]
        assert fallback == max(size for size in range(length) if begun.endswith(begun[:size]))


def test_text_is_held_back_only_as_far_as_it_may_become_a_stop_text() -> None:
    growing = StoppingText(StopTexts.of(["abc"], Pieces))
    assert [growing.push([each]) for each in (0, 1, 0, 1, 1, 0)] == ["", "", "ab", "", "abb", ""]
    assert growing.finish() == "a"


def decoded(seed: int, tokens: int, **changes: Any) -> Hypothesis:
    model, chosen = random_model(seed, len(PIECES) + 2), SearchSettings(END, tokens, **changes)
    search = search_of(chosen, (START,))
    before: tuple[int, ...] = ()
    while True:
        logits = model(before)
        order = sorted(range(len(logits)), key=lambda each: -logits[each])
        advance = search.advance([order], [[float(logits[each]) for each in order]], [logits])
        if advance.found is not None:
            return advance.found[0]
        before = (*before, advance.live[0].token)


class Shifted(Pieces):
    """The same, for ids behind the first, which are special."""

    def push(self, ids: Sequence[int]) -> str:
        return super().push([each - 3 for each in ids if 3 <= each < len(PIECES) + 3])


@settings(max_examples=300)
@given(
    st.integers(0, 10**6), st.integers(1, 12), TEXTS,
    st.sampled_from([{}, {"no_repeat_ngram_size": 2}, {"sampling": Sampling(top_k=3, seed=5)}, {"forced_end": True}]),
)
def test_a_search_ends_with_the_token_that_completes_a_text(
    seed: int, tokens: int, stops: list[str], changes: dict[str, Any]
) -> None:
    free = decoded(seed, tokens, **changes)
    stopped = decoded(seed, tokens, stop=StopTexts.of(stops, Shifted), **changes)
    size = next((
        count for count in range(1, len(free.token_ids) + 1) if _certain(free.token_ids[:count], stops)
    ), None)
    if size is not None:
        assert stopped.token_ids == free.token_ids[:size]
        assert stopped.log_probs == free.log_probs[: len(stopped.log_probs)]
        assert FinishReason.of(stopped) is FinishReason.STOP
        assert len(stopped.log_probs) == size
    elif _certain([*free.token_ids, 4], stops) and first_stop(_text(free.token_ids), stops, 0):
        assert (stopped.token_ids, stopped.stopped) == (free.token_ids, True)  # seen only at the end
    else:
        assert stopped == free


def _text(tokens: Sequence[int]) -> str:
    growing = Shifted()
    return growing.push(tokens) + growing.rest()


def _certain(tokens: Sequence[int], stops: Sequence[str]) -> bool:
    return first_stop(Shifted().push(tokens), stops, 0) is not None


@pytest.mark.parametrize(("texts", "said"), [
    (["x"] * 17, "options.stop: 17 texts are over 16"),
    (["a", ""], "options.stop[1]: empty: every answer would end before it begins"),
    (["ß" * 129], "options.stop[0]: 258 bytes are over 256"),
])
def test_texts_outside_the_limits_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_stop(texts, TOKENIZER)
    assert str(caught.value) == said


def test_texts_need_one_hypothesis_and_a_tokenizer() -> None:
    assert read_stop([], None) is None
    stop = read_stop(["ß" * 128] * 16, TOKENIZER)
    assert stop is not None
    with pytest.raises(InvalidRequest, match=r"^options\.stop: this model has no tokenizer"):
        read_stop(["a"], None)
    for options, said in (
        (Options(stop=stop, beam_size=4), "options.stop: it is for a beam of 1, and options.beam_size is 4"),
        (Options(stop=stop, return_alternatives=True, num_hypotheses=2),
         "options.stop: it is for one answer, and options.return_alternatives is true"),
        (Options(stop=stop, replace_unknowns=True),
         "options.stop: it ends texts as they were generated, and options.replace_unknowns is true"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            resolve_options(options, describe(), 32)
        assert str(caught.value) == said
    resolved = resolve_options(Options(stop=stop, prefix=(5, 6)), describe(), 32).search.stop
    assert resolved is not None
    assert resolved.prefix == (5, 6)


def test_bytes_of_a_character_complete_a_text_when_they_are_whole() -> None:
    assert IncrementalDetokenizer(TOKENIZER).rest() == ""
    stop = StopTexts.of(["c d"], lambda: IncrementalDetokenizer(TOKENIZER))
    assert stop.answer([3, 4, 5, 6, 7]) == "a b "


async def test_an_answer_ends_before_the_text_and_keeps_its_tokens() -> None:
    async with serving() as served:
        (free,) = (await served.stub.Generate(ask("c d"))).results
        assert free.hypotheses[0].text == PENCIL_TEXT == "l z y w s k x u o c h r i t m"
        for stop, text, tokens, reason in (
            (["s k"], "l z y w ", 6, "STOP"), (["m", "w s", "zz"], "l z y ", 5, "STOP"), (["l"], "", 1, "STOP"),
            (["m"], "l z y w s k x u o c h r i t ", 15, "STOP"), (["zz"], PENCIL_TEXT, 15, "EOS"),
        ):
            (result,) = (await served.stub.Generate(ask("c d", stop=stop))).results
            hypothesis = result.hypotheses[0]
            assert (hypothesis.text, hypothesis.token_ids) == (text, PENCIL_IDS[:tokens])
            assert len(hypothesis.tokens) == tokens
            assert result.output_token_count == tokens + (reason == "EOS")
            assert pb.FinishReason.Name(result.finish_reason) == f"FINISH_REASON_{reason}"
            parts = [part async for part in served.stub.GenerateStream(ask_stream("c d", stop=stop))]
            assert "".join(part.text for part in parts) == text
            assert [each for part in parts for each in part.token_ids] == PENCIL_IDS[:tokens]
            assert parts[-1].result.hypotheses[0] == hypothesis
            assert all(text.startswith("".join(part.text for part in parts[:count])) for count in range(len(parts)))


async def test_a_prefix_is_part_of_the_text_but_ends_nothing() -> None:
    async with serving() as served:
        prefix = pb.Target(text="l z y")
        for stop, text in ((["z"], None), (["y w"], "l z "), (["l z y w"], ""), (["z", "s"], "l z y w ")):
            options: dict[str, Any] = {"stop": stop, "prefix": prefix}
            (result,) = (await served.stub.Generate(ask("c d", **options))).results
            (free,) = (await served.stub.Generate(ask("c d", prefix=prefix))).results
            assert result.hypotheses[0].text == (free.hypotheses[0].text if text is None else text)
            parts = [part async for part in served.stub.GenerateStream(ask_stream("c d", **options))]
            assert "".join(part.text for part in parts) == result.hypotheses[0].text
            assert [each for part in parts for each in part.token_ids] == list(result.hypotheses[0].token_ids)


async def test_requests_that_stop_share_a_batch_with_others() -> None:
    async with serving() as served, AsyncClient(f"127.0.0.1:{served.server.port}", timeout=20) as client:
        stops = [None, ["s k"], ["u"], ["zz"], None, ["l"]] * 5
        results = await asyncio.gather(*(client.generate(["c d"], stop=stop) for stop in stops))
        texts = [result.text for (result,) in results]
        assert texts == [PENCIL_TEXT, "l z y w ", "l z y w s k x ", PENCIL_TEXT, PENCIL_TEXT, ""] * 5
        assert {result.finish_reason for (result,) in results} == {"eos", "stop"}
        with pytest.raises(InvalidInput, match="a list of texts, not the string 's k'"):
            await client.generate(["c d"], stop="s k")


async def test_what_is_refused_names_its_field() -> None:
    async with serving() as served:
        error = await refusal(served.stub.Generate(ask("c d", stop=["a", ""])))
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "options.stop[1]")
    async with serving(tokenizer=False) as served:
        error = await refusal(served.stub.Generate(ask(pb.Input(token_ids=pb.TokenIds(ids=[5])), stop=["a"])))
        assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "options.stop")


def test_the_command_line_takes_several(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--target", server.target, "--stop", "a b", "--stop", ".", "a"]) == 0
    assert server.servicer.calls[-1].options == pb.GenerationOptions(stop=["a b", "."])
    assert capsys.readouterr().out == "A\n"
