"""What every family refuses alike, each in a directory of its own: weights, vocabularies and choices of no use."""

import argparse
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from book_model import BookModel
from book_recurrent import RecurrentBook
from checkpoint_edits import change_json, change_tensors, load, refusal
from seqserve_export import command
from seqserve_export.families import FAMILIES
from seqserve_export.families.native import save_native
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq
from tiny_model import write_native

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
DATA = Path(__file__).parent / "data"
WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"word{number}" for number in range(8))]


def copied(name: str) -> Callable[[Path], object]:
    return lambda directory: shutil.copytree(DATA / name, directory)


def write_book(directory: Path) -> None:
    directory.mkdir()
    save_file(BookModel(len(WORDS), len(WORDS), bias=False).state_dict(), directory / "model.safetensors")
    for side in ("source", "target"):
        (directory / f"{side}_vocab.json").write_text(json.dumps(WORDS))
    (directory / "config.json").write_text('{"num_heads": 4}')


def write_recurrent_book(directory: Path) -> None:
    directory.mkdir()
    save_file(RecurrentBook(len(WORDS), len(WORDS)).state_dict(), directory / "model.safetensors")
    for side in ("source", "target"):
        (directory / f"{side}_vocab.json").write_text(json.dumps(WORDS))
    (directory / "config.json").write_text('{"format": "Seq2SeqAttentionDecoder"}')


def write_luong(directory: Path) -> None:
    directory.mkdir()
    config = RecurrentConfig(
        source_vocab_size=12, target_vocab_size=12, embedding_width=6, hidden_width=8, encoder_layers=1,
        decoder_layers=1, max_source_length=20, max_target_length=20, pad_id=0, eos_id=1, decoder_start_id=2,
        wiring="luong", score="general",
    )
    save_native(RecurrentSeq2Seq(config), directory)


def write_torch(directory: Path) -> None:
    directory.mkdir()
    modules = {
        "transformer": nn.Transformer(8, 2, 1, 1, 12), "source": nn.Embedding(12, 8), "target": nn.Embedding(12, 8),
        "generator": nn.Linear(8, 12),
    }
    save_file(nn.ModuleDict(modules).state_dict(), directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({
        "format": "torch.nn.Transformer", "prefix": "transformer.", "heads": 2, "source_embedding": "source.weight",
        "target_embedding": "target.weight", "output": "generator.weight", "output_bias": "generator.bias",
        "bos_id": 2, "eos_id": 3, "pad_id": 1,
    }))


# Every family whose weights are named tensors: how to write a directory, one of its matrices, and who says its shape.
CONFIG, REST = "config.json", "the rest of the file"
BARTS = ("model.decoder.layers.0.fc1.weight", CONFIG)
CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "native": (write_native, "decoder.1.ffn.inner.weight", CONFIG),
    "retnet": (partial(write_native, decoder_mixing="retention"), "decoder.1.retention.gate.weight", CONFIG),
    "d2l": (write_book, "decoder.blks.block0.ffn.dense2.weight", REST),
    "bahdanau": (write_recurrent_book, "decoder.dense.weight", REST),
    "luong": (write_luong, "combine.weight", CONFIG),
    "torch": (write_torch, "transformer.decoder.layers.0.linear1.weight", REST),
    "marian": (copied("marian"), *BARTS),
    "bart": (copied("hub/bart"), *BARTS),
    "mbart": (copied("hub/mbart50"), *BARTS),
    "m2m100": (copied("hub/m2m100"), *BARTS),
    "pegasus": (copied("hub/pegasus"), *BARTS),
    "t5": (copied("t5"), "decoder.block.0.layer.0.SelfAttention.q.weight", CONFIG),
}
OTHERS = {"ctranslate2", "argos"}  # model.bin: tests/test_ctranslate2_refusals.py, tests/test_archive.py


@pytest.fixture(params=CASES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(family: str, tmp_path: Path) -> Path:
    CASES[family][0](tmp_path / "source")
    return tmp_path / "source"


def test_no_family_is_left_out() -> None:
    assert CASES.keys() | OTHERS == FAMILIES.keys()


def test_the_directory_is_recognised_and_read(directory: Path, family: str) -> None:
    checkpoint = load(directory)
    assert checkpoint.family == family
    notes = [note for note in checkpoint.all_notes if note.endswith(": the bundle takes and returns token ids")]
    assert len(notes) == (checkpoint.tokenizer is None)


def test_missing_tensors_are_listed(directory: Path, family: str) -> None:
    file, name = directory / "model.safetensors", CASES[family][1]
    norms = [each for each in load_file(file) if "decoder" in each and "norm" in each and each.endswith(".weight")]
    change_tensors(directory, **{name: None})
    assert refusal(directory) == f"{file}: tensor {name} missing"
    change_tensors(directory, **dict.fromkeys(norms))
    told = sorted([*norms, name])
    more = f" and {len(told) - 5} more" if len(told) > 5 else ""
    noun = "tensors" if norms else "tensor"
    assert refusal(directory) == f"{file}: {noun} {', '.join(told[:5])}{more} missing"


def test_left_over_tensors_are_listed(directory: Path) -> None:
    change_tensors(directory, **{"odd.bias": torch.zeros(2), "odd.weight": torch.zeros(2, 2)})
    file = directory / "model.safetensors"
    assert refusal(directory) == f"{file}: tensors odd.bias, odd.weight not known to this architecture"


def test_a_shape_that_differs_is_told_with_the_one_expected(directory: Path, family: str) -> None:
    file, (_, name, who) = directory / "model.safetensors", CASES[family]
    shape = list(load_file(file)[name].shape)
    for wrong in ([shape[0], shape[1] + 1], shape[:1], []):
        change_tensors(directory, **{name: torch.zeros(wrong)})
        told = f"{file}: shapes disagree with {who}: {name} is {wrong} where {who} makes it {shape}"
        assert refusal(directory) == told


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_names_its_tensor_and_leaves_no_bundle(
    directory: Path, family: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    file, name = directory / "model.safetensors", CASES[family][1]
    tensor = load_file(file)[name].clone()
    tensor[-1, -1] = value
    change_tensors(directory, **{name: tensor})
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)

    def open_bundle(*_: object, **__: object) -> Any:
        pytest.fail("a bundle was written")

    assert command.run(parser.parse_args([str(directory), str(directory.parent / "out")]), open_bundle) == 1
    told = f"{file}: tensor {name} not finite in float32 (NaN or infinite values)"
    assert capsys.readouterr() == ("", f"seqserve export: {told}\n")
    assert list(directory.parent.iterdir()) == [directory]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_weights_that_are_cut_off_are_refused_by_name(directory: Path, part: float) -> None:
    file = directory / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * part)])
    assert refusal(directory).startswith(f"{file}: not a readable weights file: ")


def test_a_directory_without_weights_says_what_is_looked_for(directory: Path, family: str) -> None:
    (directory / "model.safetensors").unlink()
    pickled = {
        **dict.fromkeys(("native", "retnet", "luong"), ""),
        **dict.fromkeys(("d2l", "bahdanau", "torch"), " or model.pt"),
    }.get(family, " or pytorch_model.bin")
    assert refusal(directory) == f"{directory}: no weights here (model.safetensors{pickled})"


def test_several_weights_files_without_a_usual_name_are_listed(directory: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        shutil.copyfile(directory / "model.safetensors", directory / name)
    (directory / "model.safetensors").unlink()
    assert refusal(directory) == (
        f"{directory}: several candidates for the weights: best.safetensors, last.safetensors; name the one to export "
        "model.safetensors"
    )


def test_a_directory_that_fits_two_families_is_not_guessed(tmp_path: Path) -> None:
    both = Path(shutil.copytree(DATA / "hub" / "bart", tmp_path / "both"))
    shutil.copytree(DATA / "ctranslate2" / "int8", both, dirs_exist_ok=True, ignore=lambda *_: ["config.json"])
    assert refusal(both) == f"{both}: fits several families (bart, ctranslate2); choose one with --family"
    assert load(both, "bart").family == "bart"


@pytest.mark.parametrize(("name", "architecture"), [
    ("hub/bart", "BartForSequenceClassification"), ("hub/pegasus", "PegasusForCausalLM"),
    ("hub/mbart", "MBartForQuestionAnswering"), ("hub/m2m100", "NllbMoeForConditionalGeneration"),
    ("marian", "MarianForCausalLM"), ("t5", "T5ForTokenClassification"),
])
def test_a_class_that_cannot_be_served_is_named_with_those_that_can(
    tmp_path: Path, name: str, architecture: str
) -> None:
    directory = Path(shutil.copytree(DATA / name, tmp_path / "source"))
    change_json(directory / "config.json", architectures=[architecture])
    (directory / "model.safetensors").unlink()  # which is said before gigabytes are read
    told = refusal(directory)
    assert told.startswith(f"config.json: architecture {architecture} is not supported; supported: ")
    assert load(DATA / name).provenance["source_class"] in told


@pytest.mark.parametrize(("name", "vocabulary"), [
    ("marian", ("marian_text", "vocab.json", "source.spm", "target.spm")),
    ("t5", ("sentencepiece/t5", "spiece.model")),
    ("hub/pegasus", ("sentencepiece/pegasus", "spiece.model")),
    ("hub/nllb", ("sentencepiece/nllb", "sentencepiece.bpe.model")),
])
def test_a_vocabulary_that_the_embedding_has_no_rows_for(
    tmp_path: Path, name: str, vocabulary: tuple[str, ...]
) -> None:
    directory = Path(shutil.copytree(DATA / name, tmp_path / "source"))
    (directory / "tokenizer.json").unlink(missing_ok=True)
    for file in vocabulary[1:]:
        shutil.copyfile(DATA / vocabulary[0] / file, directory / file)
    if name == "marian":
        change_json(directory / "vocab.json", beyond=4000)
    if name == "hub/pegasus":
        change_json(directory / "tokenizer_config.json", offset=4000)
    size = load_file(directory / "model.safetensors")[
        "shared.weight" if name == "t5" else "model.shared.weight"
    ].shape[0]
    assert refusal(directory).endswith(f", but the model has {size} tokens")
