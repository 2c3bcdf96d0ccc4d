"""Vocabularies of whole words: into a bundle, texts to ids and back, in one go and as they stream."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arithmetic_engine import ArithmeticEngine
from refusals import refusal
from seqserve.bundle import BundleError
from seqserve.text_errors import UnknownWord
from seqserve.word_text import SPACES, WordVocabulary
from seqserve_export.errors import ExportError
from seqserve_export.word_files import WordFiles
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer
from seqserve_server.tokenizer.words import WordTokenizer
from serving import PENCIL_IDS, PENCIL_TEXT, WORDS, ask, ask_stream, describe, serving

SOURCE = ("<unk>", "a", "dog", "two", "\N{NO-BREAK SPACE}", ".")
TARGET = ("<pad>", "ein", "</s>", "Hund", "<unk>", "", "<0x41>", ".")
FILES = WordFiles(SOURCE, TARGET, "<unk>", ("<pad>", "</s>"), SPACES)


def opened(directory: Path, files: WordFiles, **sizes: int) -> WordTokenizer:
    files.write(directory)
    tokenizer = Tokenizer.open(directory, describe(**sizes) if sizes else None)
    assert isinstance(tokenizer, WordTokenizer)
    return tokenizer


def test_both_sides_travel_in_the_bundle(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path, FILES, source_vocab_size=6, target_vocab_size=8)
    assert tokenizer.encode("two dog a") == FILES.encoder()("two dog a") == [3, 2, 1]
    assert tokenizer.decode([1, 3, 2, 0, 7]) == "ein Hund ."
    assert tokenizer.tokens([1, 2, 99, -1]) == ["ein", "</s>", "<99>", "<-1>"]
    assert (tokenizer.id_of("dog"), tokenizer.id_of("Hund")) == (2, None)
    assert json.loads((tmp_path / "tokenizer" / "vocab.json").read_text()) == list(SOURCE)
    assert json.loads((tmp_path / "tokenizer" / "tokenizer_config.json").read_text()) == {
        "kind": "words", "split": "spaces", "joined": "spaces", "unk_token": "<unk>",
        "special_tokens": ["<pad>", "</s>"],
    }


@pytest.mark.parametrize(("split", "text", "ids"), [
    ("spaces", "  a   dog ", [1, 2]),
    ("spaces", "a\tdog a\n", [0, 0]),
    ("spaces", "a \N{NO-BREAK SPACE} dog", [1, 4, 2]),
    ("spaces", "A dog.", [0, 0]),
    ("whitespace", " a\tdog\n.\N{IDEOGRAPHIC SPACE}two", [1, 2, 5, 3]),
])
def test_words_are_looked_up_as_they_stand_between_spaces(split: str, text: str, ids: list[int]) -> None:
    assert WordVocabulary(SOURCE, TARGET, "<unk>", split=split).encode(text) == ids


def test_without_a_token_for_unknown_words_they_are_refused_by_place() -> None:
    with pytest.raises(UnknownWord, match="word 2 is not in the vocabulary, which has no token for unknown words"):
        WordVocabulary(SOURCE, TARGET).encode("a cat")


@given(st.lists(st.lists(st.integers(-1, len(TARGET)), max_size=3), max_size=12))
def test_streamed_pieces_join_to_the_whole_text(parts: list[list[int]]) -> None:
    tokenizer = WordTokenizer(FILES.vocabulary)
    detokenizer = IncrementalDetokenizer(tokenizer)
    whole = tokenizer.decode([token_id for part in parts for token_id in part])
    pieces = [detokenizer.push(part) for part in parts]
    assert "".join([*pieces, detokenizer.finish(whole)]) == whole


async def test_a_server_answers_in_words_and_streams_the_same() -> None:
    words = WordTokenizer(WordVocabulary(tuple(WORDS), tuple(WORDS), "<unk>", ("</s>", "<s>")))
    engine = ArithmeticEngine()
    async with serving(engine, tokenizer=words) as served:
        (unary,) = (await served.stub.Generate(ask("c  d"))).results
        engine.hold()
        call = served.stub.GenerateStream(ask_stream("c\td"))
        messages = []
        for _ in range(3):
            engine.allow(1)
            messages.append(await call.read())
        engine.allow()
        while (message := await call.read()) is not grpc.aio.EOF:
            messages.append(message)
    assert (unary.hypotheses[0].text, list(unary.hypotheses[0].token_ids)) == (PENCIL_TEXT, PENCIL_IDS)
    assert unary.hypotheses[0].tokens == PENCIL_TEXT.split()
    assert "".join(message.text for message in messages) == PENCIL_TEXT
    assert [message.text for message in messages[:3]] == ["l", " z", " y"]


async def test_a_word_that_the_vocabulary_lacks_is_an_invalid_argument() -> None:
    words = WordTokenizer(WordVocabulary(tuple(WORDS), tuple(WORDS)))
    async with serving(tokenizer=words) as served:
        error = await refusal(served.stub.Generate(ask("c d", "c dog")))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[1].text")
    assert "word 2 is not in the vocabulary" in error.message


@pytest.mark.parametrize(("name", "content", "told"), [
    ("vocab.json", [*SOURCE, "x"], "tokenizer/vocab.json: 7 tokens, but the model has 6"),
    ("target_vocab.json", TARGET[:-1], "tokenizer/target_vocab.json: 7 tokens, but the model has 8"),
    ("vocab.json", [*SOURCE[:-1], "a"], "tokenizer/vocab.json: 'a' is there more than once"),
    ("vocab.json", ["<UNK>", *SOURCE[1:]], "tokenizer/vocab.json: has no <unk>, which stands for unknown words"),
    ("target_vocab.json", [*TARGET[:-1], "\ud800"], r"target_vocab.json: '\ud800' cannot be written in UTF-8"),
    ("vocab.json", [], "tokenizer/vocab.json: has no tokens"),
    ("vocab.json", {"a": 1}, "tokenizer/vocab.json: not a list of tokens"),
    ("vocab.json", [*SOURCE[:-1], 3], "tokenizer/vocab.json: not a list of tokens"),
    ("tokenizer_config.json", {"kind": "words", "split": ["spaces"], "joined": "spaces"}, "split ['spaces'] is not"),
    ("tokenizer_config.json", {"kind": "words", "split": "spaces", "joined": "no"}, "joined 'no' is not one of spaces"),
    ("tokenizer_config.json", {"kind": "words", "unk_token": 3}, "unk_token 3 is neither a token nor null"),
    ("tokenizer_config.json", {"kind": "words", "special_tokens": "<s>"}, "special_tokens '<s>' is not a list"),
])
def test_a_bad_file_of_a_bundle_is_named(tmp_path: Path, name: str, content: Any, told: str) -> None:
    FILES.write(tmp_path)
    (tmp_path / "tokenizer" / name).write_text(json.dumps(content))
    with pytest.raises(BundleError) as caught:
        Tokenizer.open(tmp_path, describe(source_vocab_size=6, target_vocab_size=8))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content", "told"), [
    ("vocab.json", b"[", "tokenizer/vocab.json: not JSON, or truncated"),
    ("vocab.json", b'["\xff"]', "tokenizer/vocab.json: not JSON, or truncated"),
    ("vocab.json", b"[" * 100_000, "tokenizer/vocab.json: not JSON, or truncated"),
    ("target_vocab.json", None, "tokenizer/target_vocab.json: cannot be read: No such file"),
])
def test_a_damaged_file_of_a_bundle_is_named(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    FILES.write(tmp_path)
    path = tmp_path / "tokenizer" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BundleError, match=told):
        Tokenizer.open(tmp_path)


def test_vocabularies_that_do_not_fit_the_checkpoint_are_named_by_their_files() -> None:
    files = WordFiles(SOURCE, TARGET, source_name="dir/source.json", target_name="dir/target.json")
    assert files.check(6, 8) is files
    with pytest.raises(ExportError, match=r"^dir/target\.json: 8 tokens, but the model has 9$"):
        files.check(6, 9)
