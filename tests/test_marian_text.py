"""Marian's texts to ids and back, as transformers has them, in one go and as they stream."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marian_text_files import GOLDEN, GOLDEN_SIZE, as_bundle, copy_golden, write_separate
from seqserve.bundle import BundleError
from seqserve.text_errors import UnknownLanguage
from seqserve_server.errors import InvalidRequest
from seqserve_server.inputs import read_source
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer
from seqserve_server.tokenizer.marian import MarianTokenizer
from serving import describe

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def opened(bundle: Path, **sizes: int) -> MarianTokenizer:
    tokenizer = Tokenizer.open(bundle, describe(**sizes) if sizes else None)
    assert isinstance(tokenizer, MarianTokenizer)
    return tokenizer


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    copy_golden(tmp_path)
    return as_bundle(tmp_path)


@pytest.fixture(scope="module")
def in_bytes(tmp_path_factory: pytest.TempPathFactory) -> MarianTokenizer:
    """Separate vocabularies, and characters that were not trained on written in bytes."""
    directory = tmp_path_factory.mktemp("bytes")
    write_separate(directory, vocab_size=330, byte_fallback=True, character_coverage=1.0)
    return opened(as_bundle(directory))


@pytest.mark.parametrize(("text", "ids"), EXPECTED["encoded"], ids=range(len(EXPECTED["encoded"])))
def test_texts_become_the_ids_of_transformers(golden: Path, text: str, ids: list[int]) -> None:
    assert opened(golden).encode(text) == ids


def test_ids_become_the_texts_of_transformers(golden: Path) -> None:
    tokenizer = opened(golden)
    for ids, text in EXPECTED["decoded"]:
        assert tokenizer.decode(ids) == text


def test_each_side_has_its_own_vocabulary(tmp_path: Path) -> None:
    vocabularies = write_separate(tmp_path)
    tokenizer = opened(as_bundle(tmp_path))
    source, target = vocabularies["source"], vocabularies["target"]
    assert tokenizer.encode("a") == [source["▁a"]]
    assert tokenizer.id_of("h") == source["h"] != target["h"]
    assert tokenizer.tokens([target["ß"], 0, 999]) == ["ß", "</s>", "<999>"]
    assert tokenizer.decode([target["▁"], target["ß"], 0, target["<pad>"], 999, target["."]]) == "ß."


def test_an_unknown_language_code_is_refused_by_a_multilingual_model(golden: Path) -> None:
    with pytest.raises(UnknownLanguage, match=r"^the >>code<< .* model's languages: >>deu<<, >>fra<<$"):
        opened(golden).encode(">>xyz<< A man")
    model = describe()
    with pytest.raises(InvalidRequest, match=r"^inputs\[0\]\.text: the >>code<< that it begins with is none"):
        read_source("text", ">>xyz<< A man", model, model.framing.example(), opened(golden), "inputs[0]")


def test_a_model_of_one_language_takes_codes_for_unknown_tokens(tmp_path: Path) -> None:
    vocabularies = write_separate(tmp_path)
    assert opened(as_bundle(tmp_path)).encode(">>xyz<<a") == [1, vocabularies["source"]["▁a"]]


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [*(detokenizer.push([token_id]) for token_id in ids), detokenizer.finish(tokenizer.decode(ids))]


@given(data=st.data())
def test_streamed_pieces_join_to_the_whole_text(in_bytes: MarianTokenizer, data: st.DataObject) -> None:
    size = len(in_bytes._entries)
    common = [token_id for token_id, token in in_bytes._entries.items() if not token.startswith("<0x")]
    ids = data.draw(st.lists(st.sampled_from(common) | st.integers(0, size + 2), max_size=20))
    assert "".join(stream(in_bytes, ids)) == in_bytes.decode(ids)


@given(st.text(st.sampled_from("aäß€日😀 .") | st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=12))
def test_an_incomplete_character_is_never_shown(in_bytes: MarianTokenizer, text: str) -> None:
    written = [f"<0x{value:02X}>" for value in text.encode()]
    target = in_bytes._vocabulary.target
    ids = [target[byte] for byte in written]
    if UNFINISHED in text or UNFINISHED in in_bytes.decode(ids):
        return
    pieces = stream(in_bytes, ids)
    assert not any(UNFINISHED in piece for piece in pieces)
    assert "".join(pieces) == text.strip().replace("▁", " ").strip()


def test_the_ids_must_fit_the_model(golden: Path) -> None:
    opened(golden, source_vocab_size=GOLDEN_SIZE, target_vocab_size=GOLDEN_SIZE)
    for side in ("source", "target"):
        sizes = {"source_vocab_size": GOLDEN_SIZE, "target_vocab_size": GOLDEN_SIZE, f"{side}_vocab_size": 50}
        with pytest.raises(BundleError, match=r"^tokenizer/vocab\.json: '<pad>' has id 53, but the model has 50 "):
            opened(golden, **sizes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b'{"</s>": 0, "<un', "vocab.json: not JSON, or truncated"),
        ("vocab.json", b"\xff\xfe", "vocab.json: not JSON"),
        ("vocab.json", b"[1]", "vocab.json: not a JSON object"),
        ("vocab.json", b"{}", "vocab.json: has no tokens"),
        ("vocab.json", b'{"</s>": 0}', "vocab.json: has no <unk>"),
        ("vocab.json", b'{"<unk>": "1"}', "vocab.json: the id of '<unk>' is '1', not a number"),
        ("vocab.json", b'{"<unk>": -1}', "vocab.json: the id of '<unk>' is -1, not a number"),
        ("vocab.json", b'{"<unk>": true}', "vocab.json: the id of '<unk>' is True, not a number"),
        ("vocab.json", None, "vocab.json: cannot be read: No such file"),
        ("source.spm", None, "source.spm: cannot be read: No such file"),
        ("source.spm", b"", "source.spm: not a SentencePiece model, or a truncated one: it has no pieces"),
        ("target.spm", b"\x0a\x7f", "target.spm: not a SentencePiece model, or a truncated one"),
        ("source.spm", b"\x0a\x00\x12\x00\x1a\x00", "source.spm: not a usable SentencePiece model"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: not JSON"),
        ("tokenizer_config.json", b'{"kind": "bert"}', "kind 'bert' is not one of marian, m2m100, sent"),
        ("tokenizer_config.json", b'{"kind": "marian", "separate_vocabs": 1}', "separate_vocabs 1 is neither"),
        ("tokenizer_config.json", b'{"kind": "marian", "unk_token": 7}', "unk_token is not a token"),
        ("tokenizer_config.json", b'{"kind": "marian", "separate_vocabs": true}', "target_vocab.json: cannot be read"),
    ],
)
def test_a_bad_file_is_one_clear_error(golden: Path, name: str, content: bytes | None, message: str) -> None:
    path = golden / "tokenizer" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        Tokenizer.open(golden)
    text = str(caught.value)
    assert text.startswith("tokenizer/")
    assert message in text
    assert "\n" not in text


def test_special_tokens_may_be_written_as_objects(golden: Path) -> None:
    settings: dict[str, Any] = {"kind": "marian", "pad_token": {"content": "A", "special": True}}
    (golden / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = opened(golden)
    letter = tokenizer.id_of("A")
    assert letter is not None
    assert tokenizer.decode([letter]) == ""
    assert tokenizer.encode("A") == [letter]
