"""Text to ids and back, in one go and as it streams."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import BPE, WordLevel

from seqserve.bundle import BundleError
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer
from seqserve_server.tokenizer.hub import HubTokenizer
from serving import make_tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
WORDS = ["▁", "▁▁", "▁a", "a", "b", "▁dog", "s", ".", "▁ä", "ß", "日本"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
BYTE_OF = {value: len(SPECIAL) + len(WORDS) + value for value in range(256)}


def byte_fallback(metaspace: bool) -> HubTokenizer:
    """As SentencePiece models are decoded: what no piece covers is written in bytes."""
    entries = {piece: number for number, piece in enumerate([*SPECIAL, *WORDS, *BYTES])}
    inner = LibraryTokenizer(BPE(entries, [], unk_token="<unk>", byte_fallback=True))
    if metaspace:
        parts = [decoders.ByteFallback(), decoders.Metaspace()]
    else:
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    inner.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    return HubTokenizer(inner)


def byte_level() -> HubTokenizer:
    """As GPT-2 and BART are decoded: every piece is bytes in disguise."""
    alphabet = sorted({*"abcdefghijklmnopqrstuvwxyz", *"ĠÃ¤âĤ¬ðŁĺĢ"})
    entries = {piece: number for number, piece in enumerate([*SPECIAL, *alphabet])}
    inner = LibraryTokenizer(BPE(entries, [], unk_token="<unk>"))
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    return HubTokenizer(inner)


def word_piece() -> HubTokenizer:
    """As BERT vocabularies are decoded."""
    entries = {piece: number for number, piece in enumerate([*SPECIAL, "un", "##able", "do", "n't", ",", ".", "a"])}
    inner = LibraryTokenizer(WordLevel(entries, unk_token="<unk>"))
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    return HubTokenizer(inner)


def ends_of_words() -> HubTokenizer:
    """As old BPE vocabularies are decoded: a mark ends each word."""
    entries = {piece: number for number, piece in enumerate([*SPECIAL, "a</w>", "b", "bc</w>", ".</w>"])}
    inner = LibraryTokenizer(WordLevel(entries, unk_token="<unk>"))
    inner.decoder = decoders.BPEDecoder("</w>")
    inner.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    return HubTokenizer(inner)


KINDS = {
    "byte fallback": byte_fallback(metaspace=False), "metaspace": byte_fallback(metaspace=True),
    "byte level": byte_level(), "word piece": word_piece(), "ends of words": ends_of_words(), "words": make_tokenizer(),
}


def in_bytes(text: str) -> list[int]:
    return [BYTE_OF[value] for value in text.encode()]


def stream(tokenizer: Tokenizer, parts: list[list[int]]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.push(part) for part in parts]
    return [*pieces, detokenizer.finish(tokenizer.decode([token_id for part in parts for token_id in part]))]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_streamed_pieces_join_to_the_whole_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    size = tokenizer._inner.get_vocab_size()
    token_ids = st.integers(0, min(size, len(SPECIAL) + len(WORDS)) - 1) | st.integers(0, size - 1)
    parts = data.draw(st.lists(st.lists(token_ids, max_size=3), max_size=14))
    whole = tokenizer.decode([token_id for part in parts for token_id in part])
    assert "".join(stream(tokenizer, parts)) == whole


characters = st.sampled_from("aä€日😀ß.") | st.characters(min_codepoint=32, exclude_categories=["Cs"])
written = st.text(characters, min_size=1, max_size=3).map(in_bytes)
pieces_or_bytes = st.integers(4, 14).map(lambda piece: [piece]) | written


@given(st.lists(pieces_or_bytes))
def test_an_incomplete_character_is_never_shown(runs: list[list[int]]) -> None:
    tokenizer = KINDS["byte fallback"]
    sequence = [token_id for run in runs for token_id in run]
    if UNFINISHED in tokenizer.decode(sequence):
        return  # the text itself holds that character
    pieces = stream(tokenizer, [[token_id] for token_id in sequence])
    assert not any(UNFINISHED in piece for piece in pieces)
    assert "".join(pieces) == tokenizer.decode(sequence)


def test_characters_written_in_bytes_come_whole() -> None:
    words = {word: len(SPECIAL) + place for place, word in enumerate(WORDS)}
    parts = [[words["▁a"]], *[[token_id] for token_id in in_bytes("€€😀")], [words["▁dog"]], [words["s"]]]
    assert stream(KINDS["byte fallback"], parts) == ["a", *[""] * 10, "€€😀 dog", "s", ""]


def test_bytes_that_never_become_a_character_come_as_the_unary_answer_has_them() -> None:
    parts = [[token_id] for token_id in [*in_bytes("a"), BYTE_OF[0xE2], BYTE_OF[0x82]]]
    pieces = stream(KINDS["byte fallback"], parts)
    assert pieces[:-1] == ["", "", ""]
    assert pieces[-1] == KINDS["byte fallback"].decode([part[0] for part in parts])


def test_a_token_without_text_does_not_swallow_the_next_space() -> None:
    assert stream(KINDS["byte fallback"], [[6], [0], [9], [10]]) == ["a", "", " dog", "s", ""]


def test_words_stream_with_their_spaces() -> None:
    assert stream(make_tokenizer(), [[14], [26], [9, 21]]) == ["l", " x", " g s", ""]


def test_text_is_encoded_without_special_tokens_and_decoded_without_them() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.encode("c d") == [5, 6]
    assert tokenizer.decode([2, 5, 0, 6, 1]) == "c d"
    assert tokenizer.tokens([5, 1, 999]) == ["c", "</s>", "<999>"]
    assert (tokenizer.id_of("c"), tokenizer.id_of("nothing")) == (5, None)


def test_a_bundle_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert Tokenizer.open(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", '{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer/tokenizer\.json: cannot be read"):
        Tokenizer.open(tmp_path)


def test_a_tokenizer_is_read_from_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    make_tokenizer()._inner.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("c d") == [5, 6]
