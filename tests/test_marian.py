"""Hugging Face Marian directories onto the canonical model."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoint_edits import change_json, change_tensors, load, refusal
from seqserve_export import reference
from seqserve_export.families.weights import SUPPRESSED
from tiny_model import marian_config, marian_tensors, write_marian

GOLDEN = Path(__file__).parent / "data" / "marian"  # written by transformers: bench/peers/marian_parity.py --write


def test_marian_gives_what_transformers_computed() -> None:
    checkpoint, expected = load(GOLDEN), json.loads((GOLDEN / "expected.json").read_text())
    config = checkpoint.transformer.config
    logits = expected["logits"]
    # The last fed token only opens one more position; what it would be compared with is not looked at.
    (found,) = reference.step_logits(
        checkpoint.model, [expected["sources"][logits["source"]]], [[*logits["decoder_input_ids"][1:], config.eos_id]]
    )
    allowed = np.arange(config.target_vocab_size) != config.pad_id
    np.testing.assert_allclose(found[:, allowed], np.array(logits["values"])[:, allowed], atol=1e-4)
    assert checkpoint.forced_end
    decoded = reference.greedy(
        checkpoint.transformer, expected["sources"], checkpoint.default_max_new_tokens, forced_end=checkpoint.forced_end
    )
    for result, row in zip(decoded, expected["greedy"], strict=True):
        assert [config.decoder_start_id, *result.token_ids, config.eos_id] == row
    assert {result.finish_reason for result in decoded} == {"eos", "length"}


def test_marian_takes_its_settings_from_the_generation_file() -> None:
    checkpoint = load(GOLDEN)
    assert checkpoint.family == "marian"
    assert checkpoint.default_max_new_tokens == 39, "transformers counts the start token in max_length 40"
    assert checkpoint.provenance["suppressed_tokens"] == [39]
    assert checkpoint.provenance["generation"]["bad_words_ids"] == [[39]]
    assert checkpoint.transformer.output_bias is not None
    assert checkpoint.transformer.output_bias[39] == np.float32(SUPPRESSED)
    assert (checkpoint.decoder_prompt, checkpoint.forced_end) == ((39,), True)


def test_a_suppressed_logit_absorbs_every_real_one() -> None:
    suppressed, large = np.float32(SUPPRESSED), np.float32(3e4)
    assert suppressed + large == suppressed == suppressed - large


def test_marian_from_before_the_generation_file_keeps_its_settings_in_the_configuration(tmp_path: Path) -> None:
    write_marian(tmp_path, bad_words_ids=[[49]], max_length=20, min_length=3, num_beams=6)
    (tmp_path / "generation_config.json").unlink()
    checkpoint = load(tmp_path)
    assert (checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens) == (19, 2)
    assert checkpoint.provenance["suppressed_tokens"] == [49]
    assert checkpoint.search.beam_size == 6


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_encoder_decoder_embeddings": False},
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": 61},
        {"tie_word_embeddings": False},
    ],
    ids=["shared", "separate", "untied", "shared but untied"],
)
def test_marian_embeddings_may_be_shared_separate_or_untied(tmp_path: Path, changes: dict[str, Any]) -> None:
    tensors = write_marian(tmp_path, **changes)
    model = load(tmp_path).transformer
    shared = "model.shared.weight" in tensors
    source = tensors["model.shared.weight" if shared else "model.encoder.embed_tokens.weight"]
    target = tensors["model.shared.weight" if shared else "model.decoder.embed_tokens.weight"]
    assert torch.equal(model.source_embedding.tokens.weight, source)
    assert torch.equal(model.target_embedding.tokens.weight, target)
    assert torch.equal(model.output.weight, tensors.get("lm_head.weight", target))


def test_marian_pickles_are_read_without_running_code(tmp_path: Path) -> None:
    tensors = write_marian(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert torch.equal(load(tmp_path).transformer.source_embedding.tokens.weight, tensors["model.shared.weight"])

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Trap()}, protocol=2))
    assert "not a readable weights file" in refusal(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_marian_copies_of_tied_tensors_must_agree(tmp_path: Path) -> None:
    embedding = write_marian(tmp_path)["model.shared.weight"]
    change_tensors(tmp_path, **{"lm_head.weight": embedding.clone()})
    load(tmp_path)
    change_tensors(tmp_path, **{"lm_head.weight": embedding + 1})
    assert "lm_head.weight differs from model.shared.weight" in refusal(tmp_path)


def test_marian_stored_positions_must_be_its_sinusoids(tmp_path: Path) -> None:
    write_marian(tmp_path)
    change_tensors(tmp_path, **{"model.encoder.embed_positions.weight": torch.zeros(64, 32)})
    assert "model.encoder.embed_positions.weight is not the sinusoidal table" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MarianForCausalLM"]}, "architecture MarianForCausalLM is not supported"),
        ({"decoder_ffn_dim": 64}, "encoder_ffn_dim and decoder_ffn_dim differ"),
        ({"activation_function": "mish"}, "activation_function 'mish' is not one of swish"),
        ({"normalize_before": True}, "normalize_before True is not supported"),
        ({"encoder_attention_heads": 5, "decoder_attention_heads": 5}, "d_model 32 is not a multiple"),
        ({"d_model": ...}, "missing key 'd_model'"),
        ({"pad_token_id": 50}, "pad_id: 50 is outside the vocabulary of 50"),
        ({"eos_token_id": [0, 1]}, "eos_token_id [0, 1] is not supported; exactly one id is"),
        ({"decoder_start_token_id": None}, "decoder_start_token_id None"),
        ({"vocab_size": 51}, "model.shared.weight is [50, 32] where config.json makes it [51, 32]"),
        ({"bad_words_ids": [[1, 50]]}, "bad_words_ids [1, 50] is outside the vocabulary of 50"),
        ({"bad_words_ids": [1, 2]}, "bad_words_ids [1, 2] is not a list of lists of token ids"),
        ({"bad_words_ids": [[-1]]}, "bad_words_ids, suppress_tokens: [-1] outside the vocabulary"),
    ],
)
def test_marian_directories_that_cannot_be_served_exactly_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_marian(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    change_json(tmp_path / "config.json", **changes)
    assert message in refusal(tmp_path)


def test_an_embedding_norm_is_read_when_the_configuration_says_so(tmp_path: Path) -> None:
    write_marian(tmp_path, normalize_embedding=True)
    assert "layernorm_embedding.bias" in refusal(tmp_path)
    norms = {
        f"model.{side}.layernorm_embedding.{kind}": torch.full((32,), 0.5)
        for side in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    change_tensors(tmp_path, **norms)
    assert load(tmp_path).transformer.config.embedding_norm


def test_the_marian_writer_of_the_tests_has_the_names_of_transformers() -> None:
    values = json.loads((GOLDEN / "config.json").read_text())
    theirs = {name: tuple(tensor.shape) for name, tensor in load_file(GOLDEN / "model.safetensors").items()}
    ours = marian_tensors(**{name: values[name] for name in marian_config()})
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == theirs
