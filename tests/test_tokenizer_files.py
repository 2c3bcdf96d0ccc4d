"""A checkpoint's tokenizer, from its directory through the proof into a bundle that takes and returns text."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint_edits import change_json, load, refusal
from marian_text_files import GOLDEN_SIZE, copy_golden, write_separate
from seqserve import bundle
from seqserve.manifest import check_manifest, write_manifest
from seqserve_export import pipeline, proof_sources
from seqserve_export.description import describe
from seqserve_export.errors import ExportError
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_export.tokenizer_files import MarianFiles
from seqserve_server.errors import InvalidRequest
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from tiny_model import write_marian


def write_directory(directory: Path, size: int = GOLDEN_SIZE, **changes: Any) -> Path:
    """A Marian directory whose vocabulary has as many tokens as its model."""
    pad = size - 1
    generation = {"bad_words_ids": [[pad]], "decoder_start_token_id": pad, "eos_token_id": 0, "pad_token_id": pad,
                  "max_length": 24}
    sizes = {"vocab_size": size, "decoder_vocab_size": size, "pad_token_id": pad, "decoder_start_token_id": pad}
    write_marian(directory, generation=generation, **{**sizes, **changes})
    copy_golden(directory)
    return directory


def test_a_marian_directory_becomes_a_bundle_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_sources, "COUNT", 12)
    monkeypatch.setattr(pipeline, "PROOF_NEW_TOKENS_TEXT", 8)
    source, out = write_directory(tmp_path / "opus"), tmp_path / "out"
    (tmp_path / "lines.txt").write_text(">>deu<< A man rides a horse.\n\nTwo dogs.\n")
    options = ExportOptions(source=source, out=out, sentences=tmp_path / "lines.txt")
    exported = export_bundle(options, lambda path, **how: LocalModel.open(path, threads=1, **how))
    assert not any("tokenizer" in note for note in exported.notes)
    assert exported.description.unk_id == 1
    listed = json.loads((out / "manifest.json").read_text())["files"]
    assert {name for name in listed if name.startswith("tokenizer/")} == {
        "tokenizer/source.spm", "tokenizer/target.spm", "tokenizer/vocab.json", "tokenizer/tokenizer_config.json",
    }
    with LocalModel.open(out, threads=1) as model:
        answers, tokenizer = InProcess(model), model.served.tokenizer
        assert tokenizer is not None
        text = ">>deu<< A man rides a horse."
        limits: dict[str, Any] = {"max_new_tokens": 20, "min_new_tokens": None}
        (result,) = answers.generate("text", [text], **limits)
        (same,) = answers.generate("token_ids", [tokenizer.encode(text)], **limits)
        assert result.hypotheses == same.hypotheses
        assert result.hypotheses[0].text == tokenizer.decode(result.hypotheses[0].token_ids) != ""
        chunks = list(answers.stream("text", text, **limits))
        assert "".join(chunk.text for chunk in chunks) == result.hypotheses[0].text
        (pieces,) = answers.generate("tokens", [[">>deu<<", "▁", "A"]], **limits)
        assert pieces.input_token_count == 4
        with pytest.raises(InvalidRequest, match=r"inputs\[0\]\.text: the >>code<< .* is none of"):
            answers.generate("text", [">>xyz<< A man"], **limits)


@pytest.mark.parametrize("name", bundle.TOKENIZER_FILES)
def test_no_tokenizer_file_may_be_slipped_into_a_bundle(tmp_path: Path, name: str) -> None:
    for file in ("encoder.onnx", "decoder.onnx", "model.json"):
        (tmp_path / file).write_bytes(b"")
    write_manifest(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / name).write_bytes(b"planted")
    with pytest.raises(bundle.BundleError, match="present, but not listed"):
        check_manifest(tmp_path)


def test_separate_vocabularies_travel_both(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "opus", 100, share_encoder_decoder_embeddings=False)
    vocabularies = write_separate(source)
    tokenizer = load(source).tokenizer
    assert isinstance(tokenizer, MarianFiles)
    assert (tokenizer.vocabulary.source, tokenizer.vocabulary.target) == tuple(vocabularies.values())
    (tmp_path / "out").mkdir()
    tokenizer.write(tmp_path / "out")
    assert json.loads((tmp_path / "out" / bundle.TARGET_VOCABULARY_FILE).read_text()) == vocabularies["target"]
    settings = json.loads((tmp_path / "out" / bundle.TOKENIZER_CONFIG_FILE).read_text())
    assert settings == {
        "kind": "marian", "separate_vocabs": True, "unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>",
    }


def test_a_directory_with_some_of_the_files_is_exported_for_ids_and_says_so(tmp_path: Path) -> None:
    source = write_directory(tmp_path)
    (source / "target.spm").unlink()
    checkpoint = load(source)
    assert checkpoint.tokenizer is None
    assert "without target.spm: the bundle takes and returns token ids" in checkpoint.all_notes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("source.spm", b"\x0a\x05abc", "source.spm: not a SentencePiece model, or a truncated one"),
        ("target.spm", b"", "target.spm: not a SentencePiece model, or a truncated one"),
        ("vocab.json", b'{"</s>": 0,', "vocab.json: not JSON, or truncated"),
        ("vocab.json", b'{"</s>": 0, "<unk>": 1, "z": 54}', "vocab.json: 'z' has id 54, but the model has 54 tokens"),
        ("vocab.json", b'{"</s>": 2, "<unk>": 1}', "vocab.json: </s> has id 2, but the model's eos_token_id is 0"),
        ("vocab.json", b'{"<unk>": 1}', "vocab.json: </s> has id None, but the model's eos_token_id is 0"),
        ("tokenizer_config.json", b'{"separate_vocabs": true}', "target_vocab.json: cannot be read"),
    ],
)
def test_a_bad_file_is_named_before_anything_is_traced(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    source = write_directory(tmp_path)
    (source / name).write_bytes(content)
    assert f"{source}/{message}" in refusal(source)


def read_lines(source: Path, lines: Path) -> None:
    checkpoint = load(source)
    proof_sources.sentence_sources(describe(checkpoint, "opus", "fp32"), checkpoint.tokenizer, lines)


def test_a_model_that_only_its_library_finds_bad_is_named_too(tmp_path: Path) -> None:
    source = write_directory(tmp_path)
    (source / "source.spm").write_bytes(b"\x0a\x00\x12\x00\x1a\x00")
    (tmp_path / "lines.txt").write_text("A man\n")
    with pytest.raises(ExportError, match=r"source\.spm: not a usable SentencePiece model"):
        read_lines(source, tmp_path / "lines.txt")


def test_sentences_in_a_language_that_the_model_lacks_are_named_by_their_line(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text(">>deu<< A man\n>>xyz<< A man\n")
    with pytest.raises(ExportError, match=r"^--sentences: line 2: the >>code<< .* is none of"):
        read_lines(write_directory(tmp_path), tmp_path / "lines.txt")


def test_the_settings_of_the_directory_are_read(tmp_path: Path) -> None:
    source = write_directory(tmp_path)
    change_json(source / "tokenizer_config.json", unk_token="A", source_lang="en", target_lang="de")
    tokenizer = load(source).tokenizer
    assert isinstance(tokenizer, MarianFiles)
    assert tokenizer.unknown_id == tokenizer.vocabulary.source["A"]
