"""Checkpoints that are damaged or of no sense: every one is refused in one line that names the file."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from checkpoint_edits import change_json, load, refusal
from seqserve_export.errors import LONGEST, ExportError, ParityError
from tiny_model import write_native

DATA = Path(__file__).parent / "data"
BART, MBART, M2M100, T5, MARIAN = (
    DATA / name for name in ("hub/bart", "hub/mbart50", "hub/m2m100", "t5", "marian")
)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 301228417\n"
TOLD = f"a Git LFS pointer of {len(POINTER)} bytes, not the file; run `git lfs pull`"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([0, 1, 10**9, 10**30, "8", "x\ny", "\ud800"])
    | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=4,
)


def mutations(*paths: Path) -> st.SearchStrategy[tuple[Path, dict[str, Any]]]:
    """A file of a directory, and other values for some of its keys."""
    return st.sampled_from(paths).flatmap(lambda path: st.tuples(st.just(path), st.dictionaries(
        st.sampled_from(sorted(json.loads(path.read_text()))), VALUES, min_size=1, max_size=2,
    )))


@settings(max_examples=150)
@given(mutations(
    *(directory / name for directory in (BART, MBART, M2M100) for name in (
        "config.json", "generation_config.json", "tokenizer_config.json",
    )),
    BART / "tokenizer.json", MBART / "tokenizer.json",
    *(directory / name for directory in (T5, MARIAN) for name in ("config.json", "generation_config.json")),
    DATA / "ctranslate2" / "int8" / "config.json",
))
def test_nothing_but_an_export_error_ever_comes_out_of_mutated_settings(change: tuple[Path, dict[str, Any]]) -> None:
    path, values = change
    with tempfile.TemporaryDirectory() as name:
        directory = Path(shutil.copytree(path.parent, Path(name) / "source"))
        changed = {**json.loads(path.read_text()), **values}
        (directory / path.name).write_text(json.dumps(changed))
        with contextlib.suppress(ExportError):
            load(directory)


@settings(max_examples=100)
@given(
    st.sampled_from([*sorted(BART.iterdir()), *sorted(M2M100.iterdir())]), st.integers(0, 1 << 20),
    st.binary(max_size=3), st.booleans(),
)
def test_nothing_but_an_export_error_ever_comes_out_of_damaged_files(
    path: Path, offset: int, other: bytes, cut: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(shutil.copytree(path.parent, Path(name) / "source"))
        data = path.read_bytes()
        offset %= len(data)
        (directory / path.name).write_bytes(data[:offset] + other + (b"" if cut else data[offset + len(other) :]))
        with contextlib.suppress(ExportError):
            load(directory)


@pytest.mark.parametrize(("source", "changes", "told"), [
    (BART, {"d_model": 10**9}, "config.json: width: 1000000000 is over the limit of 65536"),
    (BART, {"encoder_layers": 10**9}, "config.json: encoder_layers: 1000000000 is over the limit of 1024"),
    (BART, {"vocab_size": 10**30}, "is over the limit of 16777216"),
    (BART, {"vocab_size": -4}, "config.json: vocab_size -4 is not an integer of at least 1"),
    (BART, {"d_model": "12"}, "config.json: d_model '12' is not an integer of at least 1"),
    (BART, {"d_model": 12.0}, "config.json: d_model 12.0 is not an integer of at least 1"),
    (BART, {"encoder_attention_heads": 5, "decoder_attention_heads": 5},
     "config.json: d_model 12 is not a multiple of encoder_attention_heads 5"),
    (BART, {"tie_word_embeddings": "yes"}, "config.json: tie_word_embeddings 'yes' is not true or false"),
    (BART, {"architectures": 7}, "config.json: architectures 7 is not a list of names or null"),
    (M2M100, {"max_position_embeddings": 10**9}, "max_source_length: 1000000000 is over the limit of 1048576"),
    (M2M100, {"max_position_embeddings": 10**6, "d_model": 1 << 14},
     "width 16384: a table of 1000002 sinusoidal positions has more than 268435456 values"),
    (T5, {"d_model": 10**9}, "width: 1000000000 is over the limit of 65536"),
    (T5, {"d_kv": 10**6}, "head_size: 1000000 is over the limit of 16384"),
    (T5, {"num_layers": -1}, "num_layers -1 is not an integer of at least 1"),
    (T5, {"is_gated_act": 1}, "is_gated_act 1 is not true or false"),
    (MARIAN, {"d_model": 1 << 14, "max_position_embeddings": 1 << 20}, "has more than 268435456 values"),
])
def test_sizes_of_no_sense_are_refused_before_they_cost_memory(
    tmp_path: Path, source: Path, changes: dict[str, Any], told: str
) -> None:
    directory = Path(shutil.copytree(source, tmp_path / "source"))
    change_json(directory / "config.json", **changes)
    assert told in refusal(directory)


@pytest.mark.parametrize(("changes", "told"), [
    ({"max_length": "20"}, "generation_config.json: max_length '20' is not an integer of at least 0 or null"),
    ({"suppress_tokens": 3}, "generation_config.json: suppress_tokens 3 is not a list of token ids or null"),
    ({"length_penalty": float("nan")}, "generation_config.json: not JSON, or truncated: NaN is no number of JSON"),
])
def test_generation_settings_of_another_type(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    directory = Path(shutil.copytree(BART, tmp_path / "source"))
    change_json(directory / "generation_config.json", **changes)
    assert told in refusal(directory)


@pytest.mark.parametrize("path", [
    *(BART / name for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")),
    *(M2M100 / name for name in ("vocab.json", "sentencepiece.bpe.model", "model.safetensors")),
    *(DATA / "marian_text" / name for name in ("vocab.json", "source.spm", "target.spm", "tokenizer_config.json")),
    *(DATA / "ctranslate2" / "int8" / name for name in ("model.bin", "config.json", "source_vocabulary.json")),
], ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_git_lfs_pointer_is_named_as_one_whatever_file_it_stands_for(tmp_path: Path, path: Path) -> None:
    directory = Path(shutil.copytree(path.parent, tmp_path / "source"))
    if path.parent.name == "marian_text":
        shutil.copytree(MARIAN, directory, dirs_exist_ok=True)
    (directory / path.name).write_text(POINTER)
    assert refusal(directory) == f"{directory / path.name}: {TOLD}"


def without_tokenizer(source: Path, directory: Path) -> Path:
    shutil.copytree(source, directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "sentencepiece.bpe.model"):
        (directory / name).unlink(missing_ok=True)
    return directory


@pytest.mark.parametrize(("source", "files", "told"), [
    (BART, ["vocab.json"], "without tokenizer.json or merges.txt (there is vocab.json)"),
    (DATA / "hub/pegasus", [], "without tokenizer.json or spiece.model"),
    (M2M100, ["vocab.json"], "without tokenizer.json or sentencepiece.bpe.model (there is vocab.json)"),
    (M2M100, ["sentencepiece.bpe.model", "tokenizer_config.json"],
     "without tokenizer.json (there is sentencepiece.bpe.model)"),
])
def test_files_that_only_transformers_would_read_are_named(
    tmp_path: Path, source: Path, files: list[str], told: str
) -> None:
    directory = without_tokenizer(source, tmp_path / "source")
    for name in files:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
        else:
            (directory / name).write_text("{}")
    checkpoint = load(directory)
    assert checkpoint.tokenizer is None
    assert checkpoint.all_notes[-1] == f"{told}: the bundle takes and returns token ids"


def test_a_native_directory_without_a_tokenizer_is_said_to_take_ids(tmp_path: Path) -> None:
    write_native(tmp_path)
    assert load(tmp_path).all_notes == ("without tokenizer.json: the bundle takes and returns token ids",)


@pytest.mark.parametrize("source", [BART, MBART, M2M100, T5, MARIAN, DATA / "hub/pegasus", DATA / "hub/nllb"])
def test_a_directory_without_any_tokenizer_file_is_said_to_take_ids(tmp_path: Path, source: Path) -> None:
    checkpoint = load(without_tokenizer(source, tmp_path / "source"))
    assert checkpoint.tokenizer is None
    (told,) = [note for note in checkpoint.all_notes if "token ids" in note]
    assert told.endswith(": the bundle takes and returns token ids")
    assert told.startswith("without ")


# --- weights


def convert(directory: Path, dtype: torch.dtype, only: str = "") -> dict[str, torch.Tensor]:
    """Store floating-point weights in another format; returns what is stored."""
    tensors = {
        name: tensor.to(dtype) if only in name else tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    save_file(tensors, directory / "model.safetensors")
    return tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("source", "embedding"), [
    (BART, "model.shared.weight"), (MARIAN, "model.shared.weight"), (T5, "shared.weight"),
    (M2M100, "model.shared.weight"),
])
def test_half_precision_is_taken_for_the_values_that_it_stands_for(
    tmp_path: Path, source: Path, embedding: str, dtype: torch.dtype
) -> None:
    directory = Path(shutil.copytree(source, tmp_path / "source"))
    stored = convert(directory, dtype)
    name = str(dtype).removeprefix("torch.")
    change_json(directory / "config.json", torch_dtype=name)
    checkpoint = load(directory)
    parameters = dict(checkpoint.model.named_parameters())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert torch.equal(parameters["source_embedding.tokens.weight"].to(torch.float64), stored[embedding].double())
    sums = sorted(float(parameter.double().sum()) for name, parameter in parameters.items() if "attention" in name)
    assert set(sums) <= {float(tensor.double().sum()) for tensor in stored.values()}
    assert f"weights are stored as {name}; in the bundle they are taken exactly as float32" in checkpoint.notes
    assert not [note for note in load(source).notes if "stored as" in note]


def test_double_precision_is_rounded_and_said_to_be(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(T5, tmp_path / "source"))
    convert(directory, torch.float64)
    assert "weights are stored as float64; in the bundle they are rounded as float32" in load(directory).notes


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_usual_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    directory = Path(shutil.copytree(BART, tmp_path / "source"))
    convert(directory, dtype, "decoder.layers.0.fc1.weight")
    assert (
        f"model.safetensors: tensor model.decoder.layers.0.fc1.weight stored as {str(dtype).removeprefix('torch.')}, "
        "not as float32, float16, bfloat16, float64"
    ) in refusal(directory)


def test_a_tensor_that_repeats_one_value_without_end_is_refused(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(BART, tmp_path / "source"))
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    tensors["model.shared.weight"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(tensors, directory / "pytorch_model.bin")
    assert refusal(directory).endswith("pytorch_model.bin: not a plain dictionary of tensors")


# --- messages


def test_a_message_is_one_line_whatever_names_a_file_has() -> None:
    assert str(ExportError("a\nb\x1b[2J\ud800")) == "a\\nb\\x1b[2J\\ud800"
    assert len(str(ExportError("a" * 10_000))) == LONGEST + len(" ...")
    assert str(ParityError("a\nb", "| 1 |\n| 2 |")) == "a\\nb\n| 1 |\n| 2 |"
    assert str(ParityError("nothing was measured")) == "nothing was measured"
