"""Checkpoint directories onto the canonical model, and what is said about those that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_edits import change_json, change_tensors, load, refusal
from seqserve_export.families import FAMILIES
from seqserve_export.families.native import save_native
from seqserve_export.tokenizer_files import HubFile
from tiny_model import tiny_model, write_native

GOLDEN = Path(__file__).parent / "data" / "marian"  # written by transformers: bench/peers/marian_parity.py --write


# --- native


@pytest.mark.parametrize(("shared", "tied"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_native_checkpoint_comes_back_with_each_shared_tensor_stored_once(
    tmp_path: Path, shared: bool, tied: bool
) -> None:
    model = write_native(tmp_path, shared_embeddings=shared, tied_output=tied)
    checkpoint = load(tmp_path)
    assert checkpoint.family == "native"
    assert checkpoint.transformer.config == model.config
    stored = load_file(tmp_path / "model.safetensors")
    assert ("target_embedding.tokens.weight" in stored, "output.weight" in stored) == (not shared, not tied)
    for name, tensor in model.state_dict().items():
        assert torch.equal(checkpoint.transformer.state_dict()[name], tensor), name
    assert not checkpoint.transformer.training
    assert (checkpoint.source_prefix, checkpoint.source_suffix) == ((), (model.config.eos_id,))
    assert checkpoint.default_max_new_tokens == 64


def test_a_native_tokenizer_gives_the_unknown_id(tmp_path: Path) -> None:
    tokenizer = tmp_path / "pieces.json"
    tokenizer.write_text(json.dumps({"model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"a": 0, "<unk>": 3}}}))
    write_native(tmp_path / "model", tokenizer=tokenizer)
    checkpoint = load(tmp_path / "model")
    assert checkpoint.unk_id == 3
    assert checkpoint.tokenizer == HubFile(tmp_path / "model" / "tokenizer.json")
    assert set(checkpoint.provenance["source_files"]) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    write_native(tmp_path)
    halves = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in load(tmp_path).transformer.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("output.weight", None, "tensor output.weight missing"),
        ("surplus.weight", torch.zeros(2), "tensor surplus.weight not known to this architecture"),
        (
            "decoder.1.ffn.inner.weight", torch.zeros(40, 32),
            "shapes disagree with config.json: decoder.1.ffn.inner.weight is [40, 32] where config.json makes it "
            "[48, 32]",
        ),
        ("output.weight", torch.full((50, 32), torch.nan), "tensor output.weight not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    write_native(tmp_path)
    change_tensors(tmp_path, **{name: tensor})
    assert message in refusal(tmp_path)


def test_long_lists_of_tensors_are_cut(tmp_path: Path) -> None:
    write_native(tmp_path)
    change_json(tmp_path / "config.json", encoder_layers=5)
    assert refusal(tmp_path).count("encoder.") == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, "activation: 'tanh'"),
        ({"colour": "red"}, "unknown keys: colour"),
        ({"pad_id": ...}, "missing keys: pad_id"),
        ({"width": "wide"}, "config.json: "),
    ],
)
def test_a_native_configuration_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_native(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    assert message in refusal(tmp_path, "native")


# --- choosing


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "no such checkpoint directory" in refusal(tmp_path / "nowhere")
    assert "no model here" in refusal(tmp_path)
    assert "no model here" in refusal(tmp_path, "native")
    assert "no model here" in refusal(tmp_path, "marian")


def test_weights_saved_by_hand_are_told_what_belongs_beside_them(tmp_path: Path) -> None:
    (tmp_path / "attention.pt").write_bytes(b"")
    said = refusal(tmp_path)
    assert "Beside attention.pt it takes config.json or" in said
    assert "source_vocab.json and target_vocab.json, with the weights called model.pt or model.safetensors" in said


def test_a_model_one_directory_below_is_pointed_at(tmp_path: Path) -> None:
    write_native(tmp_path / "one")
    assert f"did you mean {tmp_path / 'one'}?" in refusal(tmp_path)
    write_native(tmp_path / "two")
    assert "several models below (one, two)" in refusal(tmp_path)


def test_an_unknown_architecture_is_named_with_those_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    told = f"architecture 'llama' is not supported; supported families: {', '.join(FAMILIES)}"
    assert refusal(tmp_path).endswith(told)


def test_an_unknown_family_is_a_refusal_that_lists_the_known(tmp_path: Path) -> None:
    assert refusal(tmp_path, "bert") == f"--family bert: not one of auto, {', '.join(FAMILIES)}"


def test_several_weights_files_are_not_guessed_between(tmp_path: Path) -> None:
    write_native(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch1.safetensors")
    assert load(tmp_path).provenance["source_files"].keys() >= {"epoch1.safetensors"}
    save_file({"x": torch.zeros(1)}, tmp_path / "epoch2.safetensors")
    assert "several candidates for the weights: epoch1.safetensors, epoch2.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 7, b"\xff" * 64, b"not safetensors at all, but longer than that"])
def test_corrupt_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    write_native(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "not a readable weights file" in refusal(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    write_native(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a readable weights file" in refusal(tmp_path)


def test_a_git_lfs_pointer_in_place_of_weights_is_called_that(tmp_path: Path) -> None:
    write_native(tmp_path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
    (tmp_path / "model.safetensors").write_bytes(pointer)
    assert "model.safetensors: a Git LFS pointer of" in refusal(tmp_path)


def test_a_file_is_no_checkpoint_unless_a_family_reads_files(tmp_path: Path) -> None:
    write_native(tmp_path)
    file = tmp_path / "model.safetensors"
    assert refusal(file).endswith("a file that no family reads; give its directory, or a package (*.argosmodel)")
    assert refusal(file, "native").endswith("a file; the family native reads directories")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": }'])
def test_a_corrupt_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "not JSON" in refusal(tmp_path) or "not a JSON object" in refusal(tmp_path)


def test_saving_over_an_older_native_checkpoint_replaces_it(tmp_path: Path) -> None:
    write_native(tmp_path, seed=1)
    model = tiny_model(2)
    save_native(model, tmp_path)
    assert torch.equal(load(tmp_path).transformer.output.weight, model.output.weight)
