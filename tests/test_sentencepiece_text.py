"""Texts to ids and back with one SentencePiece model, by each family's habits, as transformers has them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint_edits import change_json
from seqserve.bundle import TOKENIZER_CONFIG_FILE, BundleError
from seqserve_export.errors import ExportError
from seqserve_export.sentencepiece_files import SentencePieceFiles
from seqserve_server.tokenizer import IncrementalDetokenizer, Tokenizer
from seqserve_server.tokenizer.sentencepiece import SentencePieceTokenizer
from serving import describe
from tiny_model import tiny_config

GOLDEN = Path(__file__).parent / "data" / "sentencepiece"  # made by bench/peers/sentencepiece_tokenizer.py --write
HABITS = {"t5": "t5", "mt5": "t5", "pegasus": "pegasus", "mbart": "mbart", "nllb": "nllb"}
EXPECTED = {name: json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8")) for name in HABITS}
MBART_LANGUAGES = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)


def read(directory: Path, name: str, **changes: int) -> SentencePieceFiles:
    size = EXPECTED[name]["size"]
    values = {"source_vocab_size": size, "target_vocab_size": size, "eos_id": EXPECTED[name]["eos_id"], **changes}
    languages = MBART_LANGUAGES.split() if name == "mbart" else ()
    return SentencePieceFiles.read(directory, HABITS[name], tiny_config(**values), languages)


def opened(directory: Path, bundle: Path, name: str) -> SentencePieceTokenizer:
    read(directory, name).write(bundle)
    tokenizer = Tokenizer.open(bundle)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SentencePieceTokenizer]:
    return {name: opened(GOLDEN / name, tmp_path_factory.mktemp(name), name) for name in HABITS}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the T5 files to be changed."""
    return Path(shutil.copytree(GOLDEN / "t5", tmp_path / "t5"))


@pytest.mark.parametrize("name", HABITS)
def test_texts_become_the_ids_of_transformers(tokenizers: dict[str, SentencePieceTokenizer], name: str) -> None:
    for text, ids in EXPECTED[name]["encoded"]:
        assert tokenizers[name].encode(text) == ids, text


@pytest.mark.parametrize("name", HABITS)
def test_ids_become_the_texts_of_transformers(tokenizers: dict[str, SentencePieceTokenizer], name: str) -> None:
    for ids, text in EXPECTED[name]["decoded"]:
        assert tokenizers[name].decode(ids) == text, ids


@pytest.mark.parametrize("name", HABITS)
def test_the_proof_reads_sentences_as_the_server_does(
    tokenizers: dict[str, SentencePieceTokenizer], name: str
) -> None:
    encode = read(GOLDEN / name, name).encoder()
    for text, ids in EXPECTED[name]["encoded"]:
        assert encode(text) == ids, text


@pytest.mark.parametrize("name", HABITS)
@given(data=st.data())
def test_streamed_pieces_join_to_the_whole_text(
    tokenizers: dict[str, SentencePieceTokenizer], name: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[name]
    ids = data.draw(st.lists(st.integers(0, EXPECTED[name]["size"] + 2), max_size=20))
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [*(detokenizer.push([token_id]) for token_id in ids), detokenizer.finish(tokenizer.decode(ids))]
    assert "".join(pieces) == tokenizer.decode(ids)


def test_special_tokens_typed_in_a_text_are_those_tokens(tokenizers: dict[str, SentencePieceTokenizer]) -> None:
    tokenizer, last = tokenizers["t5"], EXPECTED["t5"]["size"] - 1
    assert tokenizer.encode("<extra_id_0></s><pad>") == [last, 1, 0]
    assert tokenizer.decode([last, 1, 0, 2]) == ""
    assert tokenizer.tokens([last, 0, last + 1]) == ["<extra_id_0>", "<pad>", f"<{last + 1}>"]
    assert (tokenizer.id_of("<extra_id_99>"), tokenizer.id_of("no piece")) == (last - 99, None)


def test_the_unknown_id_is_the_unknown_token(tokenizers: dict[str, SentencePieceTokenizer]) -> None:
    for name, unknown in (("t5", 2), ("pegasus", 105), ("mbart", 3), ("nllb", 3)):
        assert read(GOLDEN / name, name).unknown_id == unknown
        assert tokenizers[name].encode("日")[-1] == unknown


def test_a_model_that_could_fall_back_to_bytes_says_that_it_does_not(directory: Path) -> None:
    assert read(directory, "t5").notes == ()
    (note,) = read(GOLDEN / "mt5", "mt5").notes
    assert "falls back to bytes" in note


def test_tokens_added_by_id_take_the_place_of_what_was_there(directory: Path, tmp_path: Path) -> None:
    last = EXPECTED["t5"]["size"] - 1
    added = {
        str(last): {"content": "<first>", "special": True, "lstrip": True, "rstrip": True},
        "5": {"content": "<five>", "special": False}, str(last - 1): {"content": "<extra_id_0>", "special": True},
    }
    change_json(directory / "tokenizer_config.json", added_tokens_decoder=added)
    tokenizer = opened(directory, tmp_path, "t5")
    assert tokenizer.encode("<five>  <first>  <extra_id_0><extra_id_1>")[:3] == [5, last, last - 1]
    assert tokenizer.decode([5, last]) == "<five>"


def test_special_tokens_that_the_settings_name_follow_all_others(directory: Path, tmp_path: Path) -> None:
    last = EXPECTED["t5"]["size"] - 1
    change_json(
        directory / "tokenizer_config.json", extra_ids=98, cls_token={"content": "<cls>"}, bos_token="</s>",
        extra_special_tokens=["<sep>", "<extra_id_0>", "."],
    )
    tokenizer = opened(directory, tmp_path, "t5")
    assert tokenizer.encode("<extra_id_0><cls><sep>") == [last - 2, last - 1, last]
    piece = tokenizer.id_of(".")
    assert piece is not None
    assert tokenizer.decode([piece, last]) == "", "a piece that is named is special from then on"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("t5", {"eos_id": 2}, "spiece.model: </s> has id 1, but the model's eos_token_id is 2"),
        ("t5", {"target_vocab_size": 20}, "but the model has 20 tokens"),
        ("mbart", {"source_vocab_size": 30}, "sentencepiece.bpe.model: '<mask>' has id"),
    ],
)
def test_ids_that_do_not_fit_the_model_are_refused(name: str, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ExportError, match=r"^[^\n]*$") as caught:
        read(GOLDEN / name, name, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_ids": -1}, "tokenizer_config.json: extra_ids -1 is not a number from 0"),
        ({"extra_ids": "100"}, "tokenizer_config.json: extra_ids '100' is not a number"),
        ({"extra_ids": 101}, "'<extra_id_0>' has id"),
        ({"extra_special_tokens": ["<sep>"]}, "'<sep>' has id"),
        ({"extra_special_tokens": "<sep>"}, "tokenizer_config.json: extra_special_tokens is not a list"),
        ({"extra_special_tokens": [5]}, "tokenizer_config.json: 5 among the special tokens is not a token"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder is malformed"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder is malformed"),
        ({"added_tokens_decoder": {"-4": {"content": "a"}}}, "added_tokens_decoder is malformed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(directory: Path, settings: dict[str, Any], message: str) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match=r"^[^\n]*$") as caught:
        read(directory, "t5")
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x0a\x05abc", b"{}", None])
def test_a_damaged_model_is_named_before_anything_is_traced(directory: Path, content: bytes | None) -> None:
    (directory / "spiece.model").unlink()
    if content is not None:
        (directory / "spiece.model").write_bytes(content)
    with pytest.raises(ExportError, match=r"spiece\.model: (not a SentencePiece model|cannot be read)"):
        read(directory, "t5")


@pytest.mark.parametrize("habit", ["fairseq", "pegasus"])
def test_a_model_with_another_beginning_is_refused(tmp_path: Path, habit: str) -> None:
    other, file = ("t5", "sentencepiece.bpe.model") if habit == "fairseq" else ("mbart", "spiece.model")
    shutil.copyfile(next((GOLDEN / other).glob("*.model")), tmp_path / file)
    with pytest.raises(ExportError, match=rf"{file}: does not begin with <"):
        SentencePieceFiles.read(tmp_path, habit, tiny_config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": "1"}, "offset '1' is not an integer"),
        ({"offset": -50}, "offset -50 makes negative ids"),
        ({"offset": 5000}, "but the model has 29 tokens"),
        ({"normalizes": 1}, "normalizes 1 is neither true nor false"),
        ({"entries": ...}, "has no entries"),
        ({"entries": 5}, "malformed"),
        ({"entries": [{"token": "<unk>"}]}, "malformed"),
        ({"entries": [{"token": "", "id": 1}]}, "entries: '' is not a token"),
        ({"entries": [{"token": "a", "id": -1}]}, "entries: the id of 'a' is -1"),
        ({"entries": [{"token": "a", "id": 1, "special": 1}]}, "entries: 'a' has flags"),
        ({"entries": [{"token": "a", "id": 1}]}, "unk_token '<unk>' is none of the entries"),
        ({"colour": "red"}, "malformed"),
        ({"kind": "bert"}, "kind 'bert' is not one of marian, m2m100, sentencepiece, words"),
    ],
)
def test_a_bad_file_in_a_bundle_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    read(GOLDEN / "t5", "t5").write(tmp_path)
    change_json(tmp_path / TOKENIZER_CONFIG_FILE, **changes)
    with pytest.raises(BundleError, match=r"^tokenizer/[^\n]*$") as caught:
        Tokenizer.open(tmp_path, describe())
    assert message in str(caught.value)


def test_a_model_that_only_its_library_finds_bad_is_named_too(tmp_path: Path) -> None:
    read(GOLDEN / "t5", "t5").write(tmp_path)
    (tmp_path / "tokenizer" / "pieces.spm").write_bytes(b"\x0a\x00\x12\x00\x1a\x00")
    with pytest.raises(BundleError, match=r"^tokenizer/pieces\.spm: not a usable SentencePiece model"):
        Tokenizer.open(tmp_path)
