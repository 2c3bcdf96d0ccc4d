"""Models around ``torch.nn.Transformer``: equal to PyTorch's own forward, and refused where a name does not fit."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoint_edits import change_json, change_tensors
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_export.word_files import WordFiles
from seqserve_server.local import LocalModel
from seqserve_server.tokenizer.words import WordTokenizer
from translator import Translator

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
IDS, PREFIX = [7, 5, 19, 3], [2, 4, 9, 9, 21, 8]


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "format": "torch.nn.Transformer", "prefix": "transformer.", "heads": 4, "source_embedding": "source.weight",
        "target_embedding": "target.weight", "output": "generator.weight", "output_bias": "generator.bias",
        "bos_id": 2, "eos_id": 3, "pad_id": 1, "unk_id": 0, "max_length": 60, **changed,
    }


def write(
    directory: Path, values: dict[str, Any], *, stored: bool = False, tied: bool = False, **options: Any
) -> Translator:
    torch.manual_seed(5)
    model = Translator(stored_positions=stored, tied=tied, **options).eval().requires_grad_(False)
    for parameter in model.parameters():  # norms and biases begin at ones and zeros, where a wrong map would not show
        parameter.add_(torch.randn_like(parameter) * 0.05)
    directory.mkdir()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if tied:
        del state["generator.weight"]
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(values))
    return model


@pytest.mark.parametrize(("values", "made"), [
    ({}, {}),
    ({"norm_first": True, "activation": "gelu"}, {"norm_first": True, "activation": "gelu"}),
    ({"source_positions": "table", "target_positions": "table"}, {"stored": True}),
    ({"output": "target.weight", "output_bias": None}, {"tied": True}),
    ({"layer_norm_eps": 1e-3}, {"layer_norm_eps": 1e-3}),
])
def test_logits_are_those_of_pytorch(tmp_path: Path, values: dict[str, Any], made: dict[str, Any]) -> None:
    source = write(tmp_path / "source", settings(**values), **made)
    checkpoint = choose_family(tmp_path / "source").read(tmp_path / "source")
    logits = checkpoint.model(torch.tensor([IDS]), torch.tensor([len(IDS)]), torch.tensor([PREFIX]))[0]
    torch.testing.assert_close(logits, source(IDS, PREFIX), atol=2e-5, rtol=0)
    assert checkpoint.model.config.max_target_length == 60
    assert checkpoint.source_suffix == (3,)


def test_a_bundle_decodes_as_pytorch_would(tmp_path: Path) -> None:
    source = write(tmp_path / "source", settings(source_prefix=[2]))
    options = ExportOptions(source=tmp_path / "source", out=tmp_path / "out")
    export_bundle(options, lambda directory, **how: LocalModel.open(directory, threads=1, **how))
    random = Random(3)
    sources = [[2, *random.choices(range(4, 25), k=random.randrange(1, 30)), 3] for _ in range(200)]
    with LocalModel.open(tmp_path / "out", threads=1) as model:
        assert (model.description.family, model.description.source_prefix) == ("torch", (2,))
        answers = model.generate(sources, max_new_tokens=20)
        for ids, answer in zip(sources, answers, strict=True):
            tokens = [*answer.token_ids, *[3] * (answer.finish_reason == "eos")]
            logits = source(ids, [2, *tokens[:-1]])
            assert logits.argmax(1).tolist() == tokens
            np.testing.assert_allclose(model.step_logits(ids, tokens), logits, atol=1e-4)


def write_words(directory: Path, source: int = 25, target: int = 31) -> dict[str, str]:
    """Vocabularies of so many words, and the settings that name them."""
    special = ["<unk>", "<pad>", "<bos>", "<eos>"]
    (directory / "source.json").write_text(json.dumps([*special, *(f"word{n}" for n in range(4, source))]))
    (directory / "target.txt").write_text("\n".join([*special, *(f"wort{n}" for n in range(4, target))]) + "\n")
    return {"source_vocab": "source.json", "target_vocab": "target.txt"}


def test_named_vocabularies_make_a_bundle_of_text(tmp_path: Path) -> None:
    write(tmp_path / "source", {})
    names = write_words(tmp_path / "source")
    (tmp_path / "source" / "config.json").write_text(json.dumps(settings(source_prefix=[2], **names)))
    checkpoint = choose_family(tmp_path / "source").read(tmp_path / "source")
    assert isinstance(checkpoint.tokenizer, WordFiles)
    assert checkpoint.tokenizer.encoder()("word7\tword5 cat word19") == [7, 5, 0, 19]
    assert set(checkpoint.provenance["source_files"]) >= {"source.json", "target.txt"}
    tokenizer = WordTokenizer(checkpoint.tokenizer.vocabulary)
    assert tokenizer.decode([2, 5, 1, 0, 7, 3]) == "wort5 <unk> wort7"


def test_vocabularies_may_be_named_as_the_books_are(tmp_path: Path) -> None:
    write(tmp_path / "source", {})
    names = write_words(tmp_path / "source")
    for side, name in names.items():
        (tmp_path / "source" / name).rename(tmp_path / "source" / f"{side}{Path(name).suffix}")
        names[side] = f"{side}{Path(name).suffix}"
    (tmp_path / "source" / "config.json").write_text(json.dumps(settings(**names)))
    assert choose_family(tmp_path / "source").name == "torch"


@pytest.mark.parametrize(("changed", "told"), [
    ({"target_vocab": ...}, "source_vocab and target_vocab go together"),
    ({"source_vocab": "../source/source.json"}, "source_vocab '../source/source.json' is not the name of a file in"),
    ({"target_vocab": "words.json"}, "target_vocab 'words.json' is not the name of a file in"),
    ({"target_vocab": ["target.txt"]}, r"target_vocab \['target.txt'\] is not a string or null"),
    ({"source_vocab": ".."}, "source_vocab '..' is not the name of a file in"),
    ({"source_vocab": "target.txt"}, r"target\.txt: 31 tokens, but the model has 25"),
])
def test_vocabularies_that_do_not_fit_are_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    write(tmp_path / "source", settings())
    names = write_words(tmp_path / "source")
    change_json(tmp_path / "source" / "config.json", **{**names, **changed})
    with pytest.raises(ExportError, match=told):
        choose_family(tmp_path / "source").read(tmp_path / "source")


@pytest.mark.parametrize(("values", "told"), [
    (settings(heads=5), "heads 5 is not a divisor of the width 24"),
    (settings(activation="tanh"), "activation 'tanh' is not one of relu, gelu"),
    (settings(activation=["relu"]), r"activation \['relu'\] is not one of relu, gelu"),
    (settings(heads="4"), "heads '4' is not an integer of at least 1"),
    (settings(norm_first="false"), "norm_first 'false' is not true or false"),
    (settings(scale_embedding=1), "scale_embedding 1 is not true or false"),
    (settings(layer_norm_eps="1e-5"), "layer_norm_eps '1e-5' is not a number from 0 to below 1"),
    (settings(layer_norm_eps=float("inf")), "config.json: not JSON, or truncated: Infinity is no number of JSON"),
    (settings(max_length=60.0), r"max_length 60.0 is not an integer in 2..131072"),
    (settings(max_new_tokens=0), "max_new_tokens 0 is not an integer of at least 1 or null"),
    (settings(sinusoid_order="mixed"), "sinusoid_order 'mixed' is not one of interleaved, concatenated"),
    (settings(source_embedding=["source.weight"]), r"source_embedding \['source.weight'\] is not a string"),
    (settings(output_bias=False), "output_bias False is not a string or null"),
    (settings(prefix=None), "prefix None is not a string"),
    (settings(source_positions={}), r"source_positions {} is not a string or null"),
    (settings(source_prefix=2), "source_prefix 2 is not a list of token ids"),
    (settings(source_suffix=[3, "2"]), r"source_suffix \[3, '2'\] is not a list of token ids or null"),
    (settings(source_prefix=[-1]), r"source_prefix \[-1\] is not a list of token ids"),
    (settings(bos_id=2.0), "bos_id 2.0 is not a token id"),
    (settings(source_prefix=[2, 25]), r"config.json: source_prefix: id 25 is outside 0..24"),
    (settings(source_suffix=[30]), r"config.json: source_suffix: id 30 is outside 0..24"),
    (settings(eos_id=30), r"config.json: source_suffix: id 30 \(eos_id, as no other is given\) is outside 0..24"),
    (settings(unk_id=25), r"config.json: unk_id: id 25 is outside 0..24"),
    (settings(bos_id=31), "bos_id: 31 is outside the vocabulary of 31"),
    (settings(source_prefix=[2] * 59), "have 60 ids, which leaves none of the 60 positions"),
    (settings(prefix="net."), "no tensor 'net.encoder.layers.0.linear1.weight'"),
    (settings(source_embedding="src.weight"), "no tensor 'src.weight'"),
    (settings(target_positions="table"), "source_positions and target_positions go together"),
    (settings(output_bias=None), "tensor generator.bias not known to this architecture"),
    (settings(head=4), "unknown keys head; known: source_embedding"),
    (settings(eos_id=31), "eos_id: 31 is outside the vocabulary of 31"),
    ({"format": "torch.nn.Transformer"}, "missing keys source_embedding, target_embedding, output, heads, bos_id"),
])
def test_what_does_not_fit_is_named(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    write(tmp_path / "source", values)
    with pytest.raises(ExportError, match=told):
        choose_family(tmp_path / "source").read(tmp_path / "source")


def test_a_tensor_without_an_axis_is_named(tmp_path: Path) -> None:
    write(tmp_path / "source", settings())
    change_tensors(
        tmp_path / "source", **{"transformer.encoder.layers.0.self_attn.in_proj_bias": torch.tensor(1.0)}
    )
    with pytest.raises(ExportError, match=r"self_attn\.query\.bias.* missing"):
        choose_family(tmp_path / "source").read(tmp_path / "source")


def test_a_model_without_any_biases_is_refused_by_the_missing_names(tmp_path: Path) -> None:
    write(tmp_path / "source", settings(), bias=False)
    with pytest.raises(ExportError, match=r"norm.*bias.* missing"):
        choose_family(tmp_path / "source").read(tmp_path / "source")
