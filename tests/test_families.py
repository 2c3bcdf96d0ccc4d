"""Checkpoint directories onto the canonical model, and what is said about those that do not fit."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from seqserve_export import reference
from seqserve_export.errors import ExportError
from seqserve_export.families import LoadedCheckpoint, choose_family
from seqserve_export.families.marian import SUPPRESSED
from seqserve_export.families.native import save_native
from tiny_model import marian_config, marian_tensors, tiny_model, write_marian, write_native

GOLDEN = Path(__file__).parent / "data" / "marian"  # written by transformers: bench/peers/marian_parity.py --write


def load(directory: Path, family: str = "auto") -> LoadedCheckpoint:
    return choose_family(directory, family).load(directory)


def refusal(directory: Path, family: str = "auto") -> str:
    with pytest.raises(ExportError) as caught:
        load(directory, family)
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**values, **changes}.items() if value is not ...}))


def change_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(directory / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors")


# --- native


@pytest.mark.parametrize(("shared", "tied"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_native_checkpoint_comes_back_with_each_shared_tensor_stored_once(
    tmp_path: Path, shared: bool, tied: bool
) -> None:
    model = write_native(tmp_path, shared_embeddings=shared, tied_output=tied)
    checkpoint = load(tmp_path)
    assert checkpoint.family == "native"
    assert checkpoint.model.config == model.config
    stored = load_file(tmp_path / "model.safetensors")
    assert ("target_embedding.tokens.weight" in stored, "output.weight" in stored) == (not shared, not tied)
    for name, tensor in model.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], tensor), name
    assert not checkpoint.model.training
    assert (checkpoint.source_prefix, checkpoint.source_suffix) == ((), (model.config.eos_id,))
    assert checkpoint.default_max_new_tokens == 64


def test_a_native_tokenizer_gives_the_unknown_id(tmp_path: Path) -> None:
    tokenizer = tmp_path / "pieces.json"
    tokenizer.write_text(json.dumps({"model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"a": 0, "<unk>": 3}}}))
    write_native(tmp_path / "model", tokenizer=tokenizer)
    checkpoint = load(tmp_path / "model")
    assert checkpoint.unk_id == 3
    assert checkpoint.tokenizer == tmp_path / "model" / "tokenizer.json"
    assert set(checkpoint.provenance["source_files"]) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    write_native(tmp_path)
    halves = {name: tensor.half() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in load(tmp_path).model.state_dict().values()} == {torch.float32}


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


def test_a_model_one_directory_below_is_pointed_at(tmp_path: Path) -> None:
    write_native(tmp_path / "one")
    assert f"did you mean {tmp_path / 'one'}?" in refusal(tmp_path)
    write_native(tmp_path / "two")
    assert "several models below (one, two)" in refusal(tmp_path)


def test_an_unknown_architecture_is_named_with_those_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert refusal(tmp_path).endswith("architecture 'llama' is not supported; supported families: native, marian")


def test_an_unknown_family_is_a_refusal_that_lists_the_known(tmp_path: Path) -> None:
    assert refusal(tmp_path, "bart") == "--family bart: not one of auto, native, marian"


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


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"model_type": }'])
def test_a_corrupt_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "not JSON" in refusal(tmp_path) or "not a JSON object" in refusal(tmp_path)


# --- marian


def test_marian_gives_what_transformers_computed() -> None:
    checkpoint, expected = load(GOLDEN), json.loads((GOLDEN / "expected.json").read_text())
    config = checkpoint.model.config
    logits = expected["logits"]
    # The last fed token only opens one more position; what it would be compared with is not looked at.
    (found,) = reference.step_logits(
        checkpoint.model, [expected["sources"][logits["source"]]], [[*logits["decoder_input_ids"][1:], config.eos_id]]
    )
    allowed = np.arange(config.target_vocab_size) != config.pad_id
    np.testing.assert_allclose(found[:, allowed], np.array(logits["values"])[:, allowed], atol=1e-4)
    decoded = reference.greedy(checkpoint.model, expected["sources"], checkpoint.default_max_new_tokens)
    for result, row in zip(decoded, expected["greedy"], strict=True):
        if result.finish_reason == "eos":
            assert [config.decoder_start_id, *result.token_ids, config.eos_id] == row
        else:  # transformers forces an end token in the last place; ours is the token that was chosen
            assert [config.decoder_start_id, *result.token_ids[:-1]] == row[:-1]
    assert {result.finish_reason for result in decoded} == {"eos", "length"}


def test_marian_takes_its_settings_from_the_generation_file() -> None:
    checkpoint = load(GOLDEN)
    assert checkpoint.family == "marian"
    assert checkpoint.default_max_new_tokens == 39, "transformers counts the start token in max_length 40"
    assert checkpoint.provenance["suppressed_tokens"] == [39]
    assert checkpoint.provenance["generation"]["bad_words_ids"] == [[39]]
    assert checkpoint.model.output_bias is not None
    assert checkpoint.model.output_bias[39] == np.float32(SUPPRESSED)
    assert any("forced_eos_token_id" in note for note in checkpoint.notes)


def test_a_suppressed_logit_absorbs_every_real_one() -> None:
    suppressed, large = np.float32(SUPPRESSED), np.float32(3e4)
    assert suppressed + large == suppressed == suppressed - large


def test_marian_from_before_the_generation_file_keeps_its_settings_in_the_configuration(tmp_path: Path) -> None:
    write_marian(tmp_path, bad_words_ids=[[49]], max_length=20, min_length=3, num_beams=6)
    (tmp_path / "generation_config.json").unlink()
    checkpoint = load(tmp_path)
    assert (checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens) == (19, 2)
    assert checkpoint.provenance["suppressed_tokens"] == [49]
    assert any("num_beams 6" in note for note in checkpoint.notes)


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
    model = load(tmp_path).model
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
    assert torch.equal(load(tmp_path).model.source_embedding.tokens.weight, tensors["model.shared.weight"])

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
        ({"bad_words_ids": [[1, 2]]}, "bad_words_ids [[1, 2]] is not supported"),
        ({"bad_words_ids": [[-1]]}, "bad_words_ids [-1] are outside the vocabulary"),
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
    assert load(tmp_path).model.config.embedding_norm


def test_the_marian_writer_of_the_tests_has_the_names_of_transformers() -> None:
    values = json.loads((GOLDEN / "config.json").read_text())
    theirs = {name: tuple(tensor.shape) for name, tensor in load_file(GOLDEN / "model.safetensors").items()}
    ours = marian_tensors(**{name: values[name] for name in marian_config()})
    assert {name: tuple(tensor.shape) for name, tensor in ours.items()} == theirs


def test_saving_over_an_older_native_checkpoint_replaces_it(tmp_path: Path) -> None:
    write_native(tmp_path, seed=1)
    model = tiny_model(2)
    save_native(model, tmp_path)
    assert torch.equal(load(tmp_path).model.output.weight, model.output.weight)
