"""Hugging Face T5 directories onto the canonical model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoint_edits import change_json, change_tensors, load, refusal
from seqserve_export import reference
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.families.checkpoint import SourceOptions
from seqserve_export.families.weights import SUPPRESSED

GOLDEN = Path(__file__).parent / "data" / "t5"  # written by transformers: bench/peers/t5_parity.py --write
SHARED, HEAD = "shared.weight", "lm_head.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy to be changed: gated, untied, two layers and one, heads of 5 in a width of 12, 8 buckets up to 20."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    return tmp_path


def test_t5_gives_what_transformers_computed() -> None:
    checkpoint, expected = load(GOLDEN), json.loads((GOLDEN / "expected.json").read_text())
    config, logits = checkpoint.transformer.config, expected["logits"]
    # The last fed token only opens one more position; what it would be compared with is not looked at.
    (found,) = reference.step_logits(
        checkpoint.model, [expected["sources"][logits["source"]]], [[*logits["decoder_input_ids"][1:], config.eos_id]]
    )
    np.testing.assert_allclose(found, np.array(logits["values"]), atol=1e-4)
    decoded = reference.greedy(checkpoint.transformer, expected["sources"], checkpoint.default_max_new_tokens)
    for result, row in zip(decoded, expected["greedy"], strict=True):
        end = [config.eos_id] if result.finish_reason == "eos" else []
        assert [config.decoder_start_id, *result.token_ids, *end] == row
    assert {result.finish_reason for result in decoded} == {"eos", "length"}


def test_t5_takes_its_settings_from_the_directory() -> None:
    checkpoint = load(GOLDEN)
    config = checkpoint.transformer.config
    assert (checkpoint.family, checkpoint.provenance["source_class"]) == ("t5", "T5ForConditionalGeneration")
    assert (checkpoint.source_prefix, checkpoint.source_suffix, checkpoint.decoder_prompt) == ((), (1,), (0,))
    assert checkpoint.default_max_new_tokens == 39, "transformers counts the start token in max_length 40"
    assert (config.encoder_layers, config.decoder_layers, config.head_size, config.width) == (2, 1, 5, 12)
    assert (config.relative_buckets, config.relative_max_distance, config.attention_scale) == (8, 20, 1.0)
    assert (config.gated_ffn, config.activation, config.tied_output, config.output_scale) == (
        True, "gelu_tanh", False, 1.0,
    )


def test_t5_without_a_length_of_answers_says_what_it_takes(directory: Path) -> None:
    change_json(directory / "generation_config.json", max_length=...)
    checkpoint = load(directory)
    assert checkpoint.default_max_new_tokens == 256
    assert any("no max_length" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("changes", "options", "lengths"),
    [
        ({}, {}, (1024, 1024)),
        ({"n_positions": 512}, {}, (512, 512)),
        ({"n_positions": 0}, {}, (1024, 1024)),
        ({"n_positions": 512}, {"max_source_length": 2000}, (2000, 512)),
        ({}, {"max_source_length": 64, "max_target_length": 30}, (64, 30)),
    ],
)
def test_limits_come_from_the_caller_the_configuration_or_a_default(
    directory: Path, changes: dict[str, Any], options: dict[str, Any], lengths: tuple[int, int]
) -> None:
    change_json(directory / "config.json", **changes)
    checkpoint = choose_family(directory).read(directory, SourceOptions(**options))
    config = checkpoint.transformer.config
    assert (config.max_source_length, config.max_target_length) == lengths
    assert checkpoint.default_max_new_tokens == min(39, lengths[1])


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("t5", {"max_source_length": 0}, "--max-source-length 0: outside 1..65536"),
        ("t5", {"max_target_length": 65537}, "--max-target-length 65537: outside 1..65536"),
        ("t5", {"heads": 4}, "--heads: means nothing to the family t5"),
        ("marian", {"max_target_length": 5}, "--max-target-length: means nothing to the family marian"),
    ],
)
def test_options_that_mean_nothing_are_refused(family: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        choose_family(GOLDEN, family).read(GOLDEN, SourceOptions(**options))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"tie_word_embeddings": ..., "scale_decoder_outputs": ...}, 12**-0.5),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": ...}, 1.0),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, 1.0),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, 12**-0.5),
        ({"model_type": "mt5", "tie_word_embeddings": True, "scale_decoder_outputs": ...}, 1.0),
    ],
)
def test_an_output_is_scaled_where_transformers_scales_it(
    directory: Path, changes: dict[str, Any], scale: float
) -> None:
    change_json(directory / "config.json", **changes)
    assert load(directory).transformer.config.output_scale == scale


def test_an_output_is_tied_where_the_weights_are(directory: Path) -> None:
    shared = load_file(directory / "model.safetensors")[SHARED]
    for copy in (shared.clone(), None):
        change_tensors(directory, **{HEAD: copy, "encoder.embed_tokens.weight": shared.clone()})
        model = load(directory).transformer
        assert model.config.tied_output
        assert model.output.weight is model.target_embedding.tokens.weight
    change_tensors(directory, **{SHARED: None})  # stored under another of its names
    assert torch.equal(load(directory).transformer.source_embedding.tokens.weight, shared)


def test_the_table_of_cross_attention_that_nobody_reads_is_left_out(directory: Path) -> None:
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    change_tensors(directory, **{name: torch.ones(8, 2)})
    load(directory)


@pytest.mark.parametrize(
    ("projection", "activation", "gated"),
    [("relu", "relu", False), ("gelu", "gelu", False), ("gated-gelu", "gelu_tanh", True), ("gated-silu", "silu", True)],
)
def test_the_feed_forward_part_is_named_as_in_transformers(
    directory: Path, projection: str, activation: str, gated: bool
) -> None:
    change_json(directory / "config.json", feed_forward_proj=projection, dense_act_fn=..., is_gated_act=...)
    if not gated:
        tensors = load_file(directory / "model.safetensors")
        changes: dict[str, torch.Tensor | None] = {name: None for name in tensors if ".wi_" in name}
        changes |= {name.replace("wi_0", "wi"): tensors[name] for name in tensors if ".wi_0" in name}
        change_tensors(directory, **changes)
    config = load(directory).transformer.config
    assert (config.activation, config.gated_ffn) == (activation, gated)


def test_suppressed_tokens_become_an_output_bias(directory: Path) -> None:
    change_json(directory / "generation_config.json", bad_words_ids=[[5]])
    bias = load(directory).transformer.output_bias
    assert bias is not None
    assert bias[5] == np.float32(SUPPRESSED)
    assert bias.count_nonzero() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["T5EncoderModel"]}, "architecture T5EncoderModel is not supported; supported: T5For"),
        ({"model_type": "umt5"}, "model_type 'umt5' is not supported: UMT5 has a table of relative positions in every"),
        ({"feed_forward_proj": "gated-mish", "dense_act_fn": ...}, "feed_forward_proj 'gated-mish' (dense_act_fn 'mi"),
        ({"feed_forward_proj": "twice-gelu", "dense_act_fn": ...}, "feed_forward_proj 'twice-gelu'"),
        ({"dense_act_fn": "tanh"}, "(dense_act_fn 'tanh') is not supported; swish, silu, relu, gelu, gelu_new, plain"),
        ({"d_kv": ...}, "missing key 'd_kv'"),
        ({"num_heads": 0}, "config.json: num_heads 0 is not an integer of at least 1"),
        ({"num_heads": "two"}, "config.json: num_heads 'two' is not an integer of at least 1"),
        ({"d_kv": 6}, "SelfAttention.q.weight is [10, 12] where config.json makes it [12, 12]"),
        ({"vocab_size": 61}, "shared.weight is [60, 12] where config.json makes it [61, 12]"),
        ({"num_layers": 3}, "encoder.block.2.layer.0.SelfAttention.k.weight"),
        ({"num_layers": 1}, "encoder.block.1.layer.0.SelfAttention.k.weight"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets 2 with relative_attention_max"),
        ({"relative_attention_max_distance": 4}, "buckets 8 with relative_attention_max_distance 4 is not supported"),
        ({"relative_attention_num_buckets": 16}, "bias.weight is [8, 2] where config.json makes it [16, 2]"),
    ],
)
def test_t5_directories_that_cannot_be_served_exactly_are_refused(
    directory: Path, changes: dict[str, Any], message: str
) -> None:
    change_json(directory / "config.json", **changes)
    assert message in refusal(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bad_words_ids": [[60]]},
         "generation_config.json: bad_words_ids, suppress_tokens: [60] outside the vocabulary of 60"),
        ({"eos_token_id": [1, 2]}, "eos_token_id [1, 2] is not supported; exactly one id is"),
        ({"pad_token_id": 99, "decoder_start_token_id": 0}, "pad_id: 99 is outside the vocabulary of 60"),
    ],
)
def test_generation_settings_that_cannot_be_honoured_are_refused(
    directory: Path, changes: dict[str, Any], message: str
) -> None:
    change_json(directory / "generation_config.json", **changes)
    assert message in refusal(directory)


def test_two_embeddings_are_not_t5(directory: Path) -> None:
    change_tensors(directory, **{"decoder.embed_tokens.weight": torch.zeros(60, 12)})
    assert "decoder.embed_tokens.weight differs from shared.weight, which both sides of T5 share" in refusal(directory)


def test_tensors_missing_and_left_over_are_named(directory: Path) -> None:
    norm = "decoder.final_layer_norm.weight"
    change_tensors(directory, **{norm: None})
    assert f"tensor {norm} missing" in refusal(directory)
    change_tensors(directory, **{norm: torch.ones(12), "decoder.extra": torch.ones(1)})
    assert "tensor decoder.extra not known to this architecture" in refusal(directory)
