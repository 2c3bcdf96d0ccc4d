"""CTranslate2 directories onto the canonical model: what CTranslate2 itself computed, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoint_edits import load, refusal
from ctranslate2_files import Variables, quantized, serialize, tiny_variables, tokens, write_directory
from seqserve_export import reference
from seqserve_export.families.ctranslate2_file import read_model
from seqserve_export.families.ctranslate2_vocabulary import read_vocabularies
from seqserve_export.families.ctranslate2_weights import implied_positions
from seqserve_export.families.weights import SUPPRESSED

GOLDEN = Path(__file__).parent / "data" / "ctranslate2"  # by CTranslate2: bench/peers/ctranslate2_parity.py --write
MODELS = ("int8", "float16", "marian", "t5")


def vocabularies(directory: Path) -> tuple[list[str], list[str]]:
    names = ("shared", "shared") if (directory / "shared_vocabulary.json").is_file() else ("source", "target")
    source, target = (json.loads((directory / f"{name}_vocabulary.json").read_text()) for name in names)
    return source, target


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_what_ctranslate2_computed(name: str) -> None:
    directory = GOLDEN / name
    checkpoint, expected = load(directory), json.loads((directory / "expected.json").read_text())
    source_words, target_words = vocabularies(directory)
    unknown, model = source_words.index("<unk>"), checkpoint.transformer
    sources = [
        [source_words.index(word) if word in source_words else unknown for word in source]
        for source in expected["sources"]
    ]
    decoded = reference.greedy(model, sources, expected["limit"], checkpoint.default_min_new_tokens)
    assert [[target_words[token] for token in result.token_ids] for result in decoded] == expected["greedy"]
    targets = [[*map(target_words.index, target), model.config.eos_id] for target in expected["targets"]]
    logits = reference.step_logits(model, sources[: len(targets)], targets)
    for rows, target, scores in zip(logits, targets, expected["target_scores"], strict=True):
        found = torch.log_softmax(torch.from_numpy(rows), -1)[torch.arange(len(target)), torch.tensor(target)]
        np.testing.assert_allclose(found.numpy(), scores, atol=1e-4)


@pytest.mark.parametrize(("name", "told"), [
    ("float16", {"weights are stored as float16; in the bundle they are taken exactly as float32"}), ("t5", set()),
])
def test_half_precision_is_noted_as_of_other_families(name: str, told: set[str]) -> None:
    assert {note for note in load(GOLDEN / name).notes if "stored as" in note} == told


def test_what_a_directory_says_is_in_the_checkpoint() -> None:
    checkpoint = load(GOLDEN / "int8")
    assert checkpoint.family == "ctranslate2"
    assert (checkpoint.source_prefix, checkpoint.source_suffix, checkpoint.unk_id) == ((), (), 0)
    assert (checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens) == (256, 1)
    assert (checkpoint.transformer.config.decoder_start_id, checkpoint.model.config.eos_id) == (1, 2)
    origin = checkpoint.provenance["ctranslate2"]
    assert (origin["binary_version"], origin["revision"], origin["weights"]) == (6, 7, ["int8"])
    assert (origin["alignment_layer"], origin["alignment_heads"]) == (-1, 1)
    assert set(checkpoint.provenance["source_files"]) == {
        "model.bin", "config.json", "source_vocabulary.json", "target_vocabulary.json",
    }
    assert any("add_source_eos is false" in note for note in checkpoint.notes)
    assert any("compute_type float32" in note for note in checkpoint.notes)


@pytest.mark.parametrize(("said", "expected"), [
    ({}, (1, (0,))),  # CTranslate2's own default
    ({"alignment_layer": 0}, (0, (0,))),
    ({"alignment_layer": -2, "alignment_heads": 2}, (0, (0, 1))),
    ({"alignment_layer": 1, "alignment_heads": 0}, (1, (0, 1))),
])
def test_layer_and_heads_of_the_alignment_are_those_of_the_file(
    tmp_path: Path, said: dict[str, int], expected: tuple[int, tuple[int, ...]]
) -> None:
    variables = {f"decoder/{name}": np.array(value, np.int16) for name, value in said.items()}
    write_directory(tmp_path, tiny_variables(layers=2) | variables)
    assert load(tmp_path).alignment == expected


def test_marian_starts_from_a_token_of_zeros_that_is_never_chosen() -> None:
    model = load(GOLDEN / "marian").transformer
    rows = len(vocabularies(GOLDEN / "marian")[0])  # the converter cut <pad>
    assert (model.config.target_vocab_size, model.config.decoder_start_id) == (rows + 1, rows)
    assert not model.target_embedding.tokens.weight[-1].any()
    assert model.output_bias is not None
    assert model.output_bias[-1] == np.float32(SUPPRESSED)


@pytest.mark.parametrize(
    ("flags", "prefix", "suffix"),
    [({"add_source_eos": True}, (), (2,)), ({"add_source_bos": True, "add_source_eos": True}, (1,), (2,))],
)
def test_special_tokens_surround_a_source_where_the_settings_say_so(
    tmp_path: Path, flags: dict[str, bool], prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> None:
    write_directory(tmp_path, config=flags)
    checkpoint = load(tmp_path)
    assert (checkpoint.source_prefix, checkpoint.source_suffix) == (prefix, suffix)
    assert not any("add_source_eos" in note for note in checkpoint.notes)


def test_a_start_that_the_caller_names_is_noted(tmp_path: Path) -> None:
    write_directory(tmp_path, config={"decoder_start_token": None})
    checkpoint = load(tmp_path)
    assert checkpoint.transformer.config.decoder_start_id == checkpoint.model.config.eos_id == 2
    assert any("decoder_start_token is not set" in note for note in checkpoint.notes)


def test_older_files_keep_their_tokens_themselves(tmp_path: Path) -> None:
    strings = {"eos_token": np.frombuffer(b"t3", np.int8), "with_source_eos": np.array(1, np.int8),
               "with_target_bos": np.array(0, np.int8)}
    write_directory(tmp_path, tiny_variables() | strings, version=5)
    (tmp_path / "config.json").unlink()
    (tmp_path / "shared_vocabulary.json").write_text(json.dumps(tokens(23)))
    assert "23 tokens, but the embedding has 21 rows" in refusal(tmp_path)
    (tmp_path / "shared_vocabulary.json").unlink()
    (tmp_path / "source_vocabulary.json").write_text(json.dumps(tokens(21)))
    (tmp_path / "target_vocabulary.json").write_text(json.dumps(tokens(23)))
    checkpoint = load(tmp_path)
    assert checkpoint.source_suffix == (6,)
    assert checkpoint.transformer.config.decoder_start_id == checkpoint.model.config.eos_id == 6


def same_model(one: Path, other: Path) -> None:
    expected, found = load(one).transformer.state_dict(), load(other).model.state_dict()
    assert set(expected) == set(found)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def older(variables: Variables, revision: int) -> Variables:
    """The variables as converters of that revision named them."""
    attributes = ("num_heads", "pre_norm", "activation")
    top = {name: variables[f"encoder/{name}"] for name in attributes}
    kept = {name: value for name, value in variables.items() if not name.endswith(attributes)}
    kept = {name.replace("embeddings_0", "embeddings"): value for name, value in kept.items()}
    return kept | (top if revision >= 3 else {})


@pytest.mark.parametrize(
    ("version", "revision", "spec", "heads"),
    [(2, 2, "TransformerBase", 8), (2, 2, "TransformerBig", 16), (2, 2, "", 8), (3, 3, "TransformerSpec", 2),
     (4, 4, "TransformerSpec", 4), (5, 7, "TransformerSpec", 2), (6, 5, "TransformerSpec", 2)],
)
def test_every_version_of_the_file_is_read(
    tmp_path: Path, version: int, revision: int, spec: str, heads: int
) -> None:
    variables = tiny_variables(heads=heads)
    write_directory(tmp_path / "new", variables)
    write_directory(tmp_path / "old", variables)
    renamed = older(variables, revision) if revision < 5 else variables
    (tmp_path / "old" / "model.bin").write_bytes(serialize(renamed, version=version, revision=revision, spec=spec))
    assert load(tmp_path / "old").transformer.config.heads == heads
    same_model(tmp_path / "new", tmp_path / "old")


def test_aliases_share_one_tensor_with_its_scale(tmp_path: Path) -> None:
    variables = tiny_variables(source=23)
    table, scale = quantized(variables.pop("decoder/embeddings/weight"))
    for name in ("encoder/embeddings_0/weight", "decoder/projection/weight"):
        del variables[name]
    variables |= {"decoder/embeddings/weight": table, "decoder/embeddings/weight_scale": scale}
    aliases = dict.fromkeys(("encoder/embeddings_0/weight", "decoder/projection/weight"), "decoder/embeddings/weight")
    write_directory(tmp_path, variables, aliases=aliases)
    (tmp_path / "source_vocabulary.json").write_text(json.dumps(tokens(23)))
    model = load(tmp_path).transformer
    assert (model.config.shared_embeddings, model.config.tied_output) == (True, True)
    np.testing.assert_array_equal(model.output.weight.numpy(), table.astype(np.float32) / scale[:, None])


def test_stored_types_stand_for_their_values(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [0.25, 64.0]], np.float32)
    stored: Variables = {
        "half": values.astype(np.float16), "brain": (values.view(np.uint32) >> 16).astype(np.uint16),
        "int16": (values * 16).astype(np.int16), "int16_scale": np.array(16, np.float32),
        "old": (values * 1000).astype(np.int16), "int8": np.array([[3, -4], [1, 127]], np.int8),
        "int8_scale": np.array([2, 4], np.float16),
    }
    (tmp_path / "model.bin").write_bytes(serialize(stored, bfloat16=["brain"]))
    file = read_model(tmp_path / "model.bin")
    for name in ("half", "brain", "int16", "old"):
        found, expected = file.tensor(name), values if name != "old" else (values * 1000).astype(np.int16) / 1000
        np.testing.assert_allclose(found.numpy(), expected)
    np.testing.assert_array_equal(file.tensor("int8").numpy(), [[1.5, -2.0], [0.25, 31.75]])
    assert all(file.tensor(name).dtype == torch.float32 for name in stored if not name.endswith("scale"))


def test_separate_projections_are_read_like_fused_ones(tmp_path: Path) -> None:
    variables = tiny_variables()
    write_directory(tmp_path / "fused", variables)
    apart = dict(variables)
    for scope, parts in (("encoder/layer_0/self_attention", (3, 1)), ("decoder/layer_0/self_attention", (3, 1)),
                         ("decoder/layer_0/attention", (1, 2, 1))):
        for kind in ("weight", "bias"):
            fused = [apart.pop(f"{scope}/linear_{index}/{kind}") for index in range(len(parts))]
            pieces = [piece for value, part in zip(fused, parts, strict=True) for piece in np.split(value, part)]
            apart |= {f"{scope}/linear_{index}/{kind}": piece for index, piece in enumerate(pieces)}
    write_directory(tmp_path / "apart", apart)
    same_model(tmp_path / "fused", tmp_path / "apart")


def test_biases_that_only_some_projections_have_are_zero_elsewhere(tmp_path: Path) -> None:
    variables = tiny_variables()
    del variables["decoder/layer_0/attention/linear_1/bias"], variables["encoder/layer_0/ffn/linear_1/bias"]
    write_directory(tmp_path, variables)
    state = load(tmp_path).transformer.state_dict()
    assert not state["decoder.0.cross.key.bias"].any()
    assert state["decoder.0.cross.query.bias"].any()
    assert not state["encoder.0.ffn.outer.bias"].any()


def test_positions_that_are_not_stored_are_ctranslate2s_own(tmp_path: Path) -> None:
    write_directory(tmp_path)
    model = load(tmp_path).transformer
    table = implied_positions(1024, 16, read_model(tmp_path / "model.bin"))
    assert model.source_embedding.positions is not None
    assert torch.equal(model.source_embedding.positions, table)
    assert float(table[0, 0]) == pytest.approx(np.sin(1.0)), "the first position is 1"
    assert float(table[9, 7]) == pytest.approx(np.sin(10 / 10000), rel=1e-5), "the slowest rate is 1 / 10000 itself"
    stored = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    write_directory(tmp_path, tiny_variables() | {"decoder/position_encodings/encodings": stored})
    config = load(tmp_path).transformer.config
    assert (config.max_source_length, config.max_target_length) == (1024, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<unk>\n<s>\n</s>\na\x85b\n\n", ["<unk>", "<s>", "</s>", "a\x85b", ""]),
     ("<s>\r\n</s>\r\na\r\n", ["<s>", "</s>", "a", "<unk>"]), ("<s>\n</s>\nx\r", ["<s>", "</s>", "x\r", "<unk>"])],
)
def test_a_text_vocabulary_is_read_as_ctranslate2_reads_it(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "shared_vocabulary.txt").write_bytes(text.encode())
    source, target = read_vocabularies(tmp_path, "<unk>")
    assert source is target
    assert list(source.tokens) == expected


def test_an_appended_unknown_token_without_a_row_is_none(tmp_path: Path) -> None:
    write_directory(tmp_path, tiny_variables(source=21))
    (tmp_path / "source_vocabulary.json").write_text(json.dumps([*tokens(22)[1:]]))
    assert load(tmp_path).unk_id is None
