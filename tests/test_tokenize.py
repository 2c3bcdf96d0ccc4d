"""Texts to ids and ids to texts over real gRPC, with nothing generated."""

import asyncio
import threading
from typing import Any

import grpc
import pytest

from arithmetic_engine import ArithmeticEngine
from marian_text_files import as_bundle, write_separate
from refusals import refusal
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve.word_text import WordVocabulary
from seqserve_client import AsyncClient, InvalidInput, ModelNotFound, TokenizedText, TooManyInputs
from seqserve_server.tokenizer import Tokenizer
from seqserve_server.tokenizer.words import WordTokenizer
from seqserve_server.tokenizing import SLICE, _slices
from serving import PENCIL_IDS, PENCIL_TEXT, WORDS, Served, ask, describe, serving

SOURCE = tuple(WORDS)
TARGET = tuple(word.upper() for word in WORDS)


def connected(served: Served) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{served.server.port}", timeout=20)


async def test_ids_are_those_that_generate_would_use_and_may_be_sent_to_it() -> None:
    async with serving() as served, connected(served) as client:
        plain, longer, nothing = await client.tokenize(["c d", "a b zz", ""])
        (whole,) = await client.tokenize(["c d"], add_special_tokens=True, model="pencil")
        (answer,) = await client.generate(token_ids=[plain.token_ids])
        assert await client.detokenize([answer.hypotheses[0].token_ids, []]) == [PENCIL_TEXT, ""]
    assert plain == TokenizedText([5, 6], ["c", "d"])
    assert longer == TokenizedText([3, 4, 0], ["a", "b", "<unk>"])
    assert nothing == TokenizedText([], [])
    assert whole == TokenizedText([5, 6, 1], ["c", "d", "</s>"])
    assert len(whole.token_ids) == answer.input_token_count
    assert answer.text == PENCIL_TEXT


async def test_each_side_speaks_its_own_vocabulary_and_special_tokens_are_left_out_of_texts() -> None:
    words = WordTokenizer(WordVocabulary(SOURCE, TARGET, "<unk>", ("</S>",)))
    async with serving(tokenizer=words) as served, connected(served) as client:
        assert await client.tokenize(["c A"]) == [TokenizedText([5, 0], ["c", "<unk>"])]
        assert await client.detokenize([[5, 1, 6], PENCIL_IDS]) == ["C D", PENCIL_TEXT.upper()]


def test_marians_sides_are_told_apart_too(tmp_path: Any) -> None:
    vocabularies = write_separate(tmp_path)
    tokenizer = Tokenizer.open(as_bundle(tmp_path), describe(source_vocab_size=100, target_vocab_size=100))
    assert tokenizer is not None
    source, target = ({number: token for token, number in side.items()} for side in vocabularies.values())
    ids = tokenizer.encode("A man")
    assert tokenizer.source_tokens([*ids, 9999]) == [*(source[token_id] for token_id in ids), "<9999>"]
    assert tokenizer.tokens(ids) == [target.get(token_id, f"<{token_id}>") for token_id in ids]


async def test_sources_beyond_the_models_length_are_counted_not_refused() -> None:
    async with serving() as served, connected(served) as client:
        (long,) = await client.tokenize(["a " * 20_000])
    assert long.token_ids == [3] * 20_000


async def test_special_tokens_are_those_of_the_language_asked_for() -> None:
    languages = {
        "source_prefix": ("source_language",), "decoder_prompt": (1, "target_language"),
        "languages": {"de": 20, "fr": 22}, "default_source_language": "de", "default_max_new_tokens": 40,
    }
    async with serving(description=languages) as served, connected(served) as client:
        assert (await client.tokenize(["c"], add_special_tokens=True))[0].token_ids == [20, 5, 1]
        assert (await client.tokenize(["c"], add_special_tokens=True, source_language="fr"))[0].token_ids == [22, 5, 1]
        assert (await client.tokenize(["c"], source_language="fr"))[0].token_ids == [5]
        error = await refusal(served.stub.Tokenize(TEXTS(texts=["c"], source_language="en")))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "source_language")
    assert "'en' is not one of de, fr" in error.message


TEXTS, SEQUENCES = pb.TokenizeRequest, pb.DetokenizeRequest
IDS = pb.TokenIds
BAD: list[tuple[Any, str, str]] = [
    (TEXTS(), "texts", "0 entries are outside 1..4"),
    (TEXTS(texts=["c"] * 5), "texts", "5 entries are outside 1..4"),
    (TEXTS(texts=["c", "ä" * 33]), "texts[1]", "66 bytes are over the limit of 64"),
    (SEQUENCES(), "token_ids", "0 entries are outside 1..4"),
    (SEQUENCES(token_ids=[IDS()] * 5), "token_ids", "5 entries are outside 1..4"),
    (SEQUENCES(token_ids=[IDS(ids=[3]), IDS(ids=[3] * 65)]), "token_ids[1]", "65 ids are over the limit of 64"),
    (SEQUENCES(token_ids=[IDS(ids=[3, 29])]), "token_ids[0][1]", "id 29 is outside 0..28"),
    (SEQUENCES(token_ids=[IDS(ids=[-1])]), "token_ids[0][0]", "id -1 is outside 0..28"),
]


async def test_what_is_over_a_limit_is_refused_by_name() -> None:
    async with serving(max_inputs=4, max_text_bytes=64) as served:
        for request, field, told in BAD:
            method = served.stub.Tokenize if isinstance(request, TEXTS) else served.stub.Detokenize
            error = await refusal(method(request))
            assert (error.code, error.reason, error.field) == (
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field
            )
            assert error.message == f"{field}: {told}"
        async with connected(served) as client:
            for call in (client.tokenize(["c"] * 5), client.detokenize([[3]] * 5)):
                with pytest.raises(TooManyInputs):
                    await call


async def test_words_that_cannot_be_encoded_are_refused_by_their_text() -> None:
    words = WordTokenizer(WordVocabulary(SOURCE, TARGET))
    async with serving(tokenizer=words) as served:
        error = await refusal(served.stub.Tokenize(TEXTS(texts=["c", "c dog"])))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "texts[1]")
    assert "word 2 is not in the vocabulary" in error.message


async def test_a_model_without_a_tokenizer_and_an_unknown_model_are_named() -> None:
    async with serving(tokenizer=False) as served, connected(served) as client:
        for call in (client.tokenize(["c"]), client.detokenize([[5]])):
            with pytest.raises(InvalidInput, match="model: this model has no tokenizer") as caught:
                await call
            assert (type(caught.value), caught.value.field) == (InvalidInput, "model")
        with pytest.raises(ModelNotFound):
            await client.tokenize(["c"], model="other")


async def test_the_event_loop_goes_on_while_a_text_is_tokenised() -> None:
    begun, let_go = threading.Event(), threading.Event()

    class Slow(WordTokenizer):
        def encode(self, text: str) -> list[int]:
            if text == "slow":
                begun.set()
                assert let_go.wait(30)
            return super().encode(text)

    tokenizer = Slow(WordVocabulary(SOURCE, SOURCE, "<unk>"))
    async with serving(ArithmeticEngine(), tokenizer=tokenizer) as served:
        call = asyncio.ensure_future(served.stub.Tokenize(TEXTS(texts=["c", "slow"])))
        try:
            assert await asyncio.to_thread(begun.wait, 30)
            (result,) = (await served.stub.Generate(ask("c d"))).results
            assert result.hypotheses[0].token_ids == PENCIL_IDS
            assert not call.done()
        finally:
            let_go.set()
        response = await call
    assert [list(each.token_ids) for each in response.results] == [[5], [0]]


@pytest.mark.parametrize(("sizes", "slices"), [
    ([], []),
    ([0], [(0, 1)]),
    ([SLICE], [(0, 1)]),
    ([3, SLICE, 5, 6], [(0, 2), (2, 4)]),
    ([0] * (SLICE + 2), [(0, SLICE), (SLICE, SLICE + 2)]),
])
def test_work_is_cut_by_its_size(sizes: list[int], slices: list[tuple[int, int]]) -> None:
    assert list(_slices(sizes)) == slices
