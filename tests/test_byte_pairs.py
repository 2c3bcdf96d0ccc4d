"""BART's vocab.json and merges.txt: the ``tokenizer.json`` that transformers makes of them, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint_edits import change_json, load
from hub_files import GOLDEN, Golden, copy
from seqserve.bundle import TOKENIZER_FILE
from seqserve_export.errors import ExportError
from seqserve_export.tokenizer_files import HubFile

MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}


def two_files(directory: Path, *, head: str = "#version: 0.2\n", end: str = "\n") -> dict[str, Any]:
    """The golden directory with its ``tokenizer.json`` taken apart as BART's own directories have it; returns that."""
    golden = copy("bart", directory)
    values: dict[str, Any] = json.loads((golden / "tokenizer.json").read_text())
    (golden / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    merges = "".join(f"{' '.join(pair)}{end}" for pair in values["model"]["merges"])
    (golden / "merges.txt").write_bytes(head.encode() + merges.encode())
    (golden / "tokenizer.json").unlink()
    return values


def made(directory: Path) -> dict[str, Any]:
    """The ``tokenizer.json`` that a bundle of the directory gets."""
    file = load(directory / "bart").tokenizer
    assert isinstance(file, HubFile)
    out = directory / "bundle"
    out.mkdir()
    file.write(out)
    values: dict[str, Any] = json.loads((out / TOKENIZER_FILE).read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize(("head", "end"), [("#version: 0.2\n", "\n"), ("", "\n"), ("#version: 0.2\r\n", "\r\n")])
def test_the_file_is_the_one_that_transformers_wrote(tmp_path: Path, head: str, end: str) -> None:
    wanted = two_files(tmp_path, head=head, end=end)
    assert made(tmp_path) == wanted


def test_without_settings_the_tokens_are_the_classes_own(tmp_path: Path) -> None:
    wanted = two_files(tmp_path)
    (tmp_path / "bart" / "tokenizer_config.json").unlink()
    checkpoint = load(tmp_path / "bart")
    assert checkpoint.unk_id == wanted["model"]["vocab"]["<unk>"]
    assert made(tmp_path) == wanted


def test_texts_sources_and_answers_are_those_of_transformers(tmp_path: Path) -> None:
    two_files(tmp_path)
    golden = Golden(load(tmp_path / "bart"), Golden.read("bart").expected)
    assert golden.checkpoint.all_notes == ()
    assert golden.checkpoint.tokenizer is not None
    assert {*golden.checkpoint.provenance["source_files"]} >= {"vocab.json", "merges.txt"}
    (tmp_path / "text").mkdir()
    for encode in (golden.tokenizer(tmp_path / "text").encode, golden.checkpoint.tokenizer.encoder()):
        assert [encode(text) for text in golden.expected["texts"]] == golden.expected["contents"]
    tokenizer = golden.checkpoint.tokenizer.encoder()
    for case in golden.cases:
        frame = golden.frame(case)
        assert [list(frame.complete(tuple(tokenizer(text)))) for text in golden.expected["texts"]] == case.sources


def added(values: dict[str, Any], token: str) -> dict[str, Any]:
    (found,) = [entry for entry in values["added_tokens"] if entry["content"] == token]
    return dict(found)


@pytest.mark.parametrize(("file", "content"), [
    ("tokenizer_config.json", {"mask_token": {**MASK, "__type": "AddedToken"}}),
    ("tokenizer_config.json", {"added_tokens_decoder": {"4": {**MASK, "special": True}}}),
    ("special_tokens_map.json", {"mask_token": MASK}),
])
def test_a_token_takes_the_spaces_that_the_settings_give_it(
    tmp_path: Path, file: str, content: dict[str, Any]
) -> None:
    wanted = two_files(tmp_path)
    (tmp_path / "bart" / file).write_text(json.dumps(content))
    values = made(tmp_path)
    assert added(values, "<mask>") == {"id": wanted["model"]["vocab"]["<mask>"], **MASK, "special": True}
    assert added(values, "<s>") == added(wanted, "<s>")


def test_settings_that_list_added_tokens_make_the_older_files_of_no_account(tmp_path: Path) -> None:
    two_files(tmp_path)
    (tmp_path / "bart" / "special_tokens_map.json").write_text(json.dumps({"mask_token": MASK}))
    change_json(tmp_path / "bart" / "tokenizer_config.json", added_tokens_decoder={})
    assert not added(made(tmp_path), "<mask>")["lstrip"]


def test_a_space_in_front_is_as_the_settings_say(tmp_path: Path) -> None:
    wanted = two_files(tmp_path)
    change_json(tmp_path / "bart" / "tokenizer_config.json", add_prefix_space=True)
    values = made(tmp_path)
    assert values["pre_tokenizer"] == {**wanted["pre_tokenizer"], "add_prefix_space": True}
    assert values["post_processor"]["add_prefix_space"] is True


@pytest.mark.parametrize(("file", "key"), [
    ("added_tokens.json", None), ("tokenizer_config.json", "extra_special_tokens"),
    ("tokenizer_config.json", "additional_special_tokens"),
])
def test_a_token_that_the_vocabulary_lacks_comes_behind_it_and_needs_a_row_of_the_model(
    tmp_path: Path, file: str, key: str | None
) -> None:
    wanted = two_files(tmp_path)
    behind, rows = len(wanted["model"]["vocab"]), load(GOLDEN / "bart").model.config.source_vocab_size
    assert behind < rows

    def write(count: int) -> None:
        tokens = [f"<{number}>" for number in range(count)]
        content = {token: behind + number for number, token in enumerate(tokens)} if key is None else {key: tokens}
        (tmp_path / "bart" / file).write_text(json.dumps(content))

    write(1)
    assert added(made(tmp_path), "<0>")["id"] == behind
    write(rows - behind + 1)
    with pytest.raises(ExportError, match=f"vocab.json: '<.*>' has id {rows}, but the model has {rows} tokens"):
        load(tmp_path / "bart")


@pytest.mark.parametrize(("file", "content", "told"), [
    ("merges.txt", "#version: 0.2\na b c\n", r"merges.txt: line 2 is 'a b c', not two tokens with a space between"),
    ("merges.txt", "\na b\n", r"merges.txt: line 1 is '', not two tokens"),
    ("merges.txt", "i zzz\n", r"merges.txt: line 1: 'zzz' is not in vocab.json"),
    ("merges.txt", b"\xff\xfe", r"merges.txt: not UTF-8"),
    ("vocab.json", "{}", r"vocab.json: has no tokens"),
    ("vocab.json", '{"<s>": "0"}', r"vocab.json: the id of '<s>' is '0', not a number from 0"),
    ("vocab.json", '{"\\ud800": 0}', r"vocab.json: has a token that cannot be written in UTF-8"),
    ("tokenizer_config.json", '{"add_prefix_space": 1}', r"tokenizer_config.json: add_prefix_space 1 is not true or"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"4": "<mask>"}}', r"special tokens of an unknown form"),
    ("tokenizer_config.json", '{"mask_token": 3}', r"special tokens of an unknown form"),
    ("tokenizer_config.json", '{"mask_token": [3]}', r"special tokens of an unknown form"),
    ("tokenizer_config.json", '{"sep_token": null}', r"special tokens of an unknown form"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "<s>"}}}', r"special tokens of an unknown"),
    ("tokenizer_config.json", '{"extra_special_tokens": [[]]}', r"special tokens of an unknown form"),
    ("special_tokens_map.json", '{"add_prefix_space": 1}', r"tokens_map.json: add_prefix_space 1 is not true or"),
    ("special_tokens_map.json", "[]", r"special_tokens_map.json: not a JSON object"),
])
def test_what_is_malformed_is_named(tmp_path: Path, file: str, content: str | bytes, told: str) -> None:
    two_files(tmp_path)
    if "ud800" in str(content):
        (tmp_path / "bart" / "merges.txt").write_text("")
    (tmp_path / "bart" / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ExportError, match=told):
        load(tmp_path / "bart")


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_one_of_the_files_is_not_enough(tmp_path: Path, missing: str) -> None:
    two_files(tmp_path)
    (tmp_path / "bart" / missing).unlink()
    there = {"vocab.json": "merges.txt", "merges.txt": "vocab.json"}[missing]
    assert load(tmp_path / "bart").all_notes == (
        f"without tokenizer.json or {missing} (there is {there}): the bundle takes and returns token ids",
    )


def test_another_classes_files_give_no_text(tmp_path: Path) -> None:
    two_files(tmp_path)
    change_json(tmp_path / "bart" / "tokenizer_config.json", tokenizer_class="OtherTokenizer")
    checkpoint = load(tmp_path / "bart")
    assert checkpoint.tokenizer is None
    assert checkpoint.all_notes == (
        "without tokenizer.json (tokenizer_config.json gives vocab.json and merges.txt to OtherTokenizer): the bundle "
        "takes and returns token ids",
    )
