"""Directories of BART's relatives that cannot be served exactly: refused in one line that names what is allowed."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_edits import change_json, change_tensors, refusal
from hub_files import GOLDEN, Golden, copy
from seqserve.bundle import BundleError
from seqserve_export.description import describe
from seqserve_server.tokenizer import Tokenizer


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("bart", {"architectures": ["BartForSequenceClassification"]},
     "architecture BartForSequenceClassification is not supported; supported: BartForConditionalGeneration, BartModel"),
    ("mbart", {"architectures": ["MBartForCausalLM"]}, "supported: MBartForConditionalGeneration, MBartModel"),
    ("bart", {"normalize_before": True}, "normalize_before True is not supported; only False is"),
    ("mbart", {"normalize_before": False}, "normalize_before False is not supported; only True is"),
    ("nllb", {"encoder_ffn_dim": 24}, "encoder_ffn_dim and decoder_ffn_dim differ"),
    ("pegasus", {"decoder_attention_heads": 4}, "encoder_attention_heads and decoder_attention_heads differ"),
    ("bart", {"encoder_layers": 2}, "model.encoder.layers.1."),
    ("bart", {"bos_token_id": True}, "config.json: bos_token_id True is not a token id or null"),
    ("bart", {"encoder_layers": ...}, "missing key 'encoder_layers'"),
    ("m2m100", {"max_position_embeddings": 0},
     "config.json: max_position_embeddings 0 is not an integer of at least 1"),
    ("bart", {"max_position_embeddings": 50},
     "model.encoder.embed_positions.weight is [42, 12] where config.json makes it [52, 12]"),
])
def test_a_configuration_that_does_not_fit(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    change_json(directory / "config.json", **changes)
    assert message in refusal(directory)


@pytest.mark.parametrize("kind", ["nllb-moe", "plbart", "led", "blenderbot", "prophetnet"])
def test_relatives_that_are_not_supported_are_named_with_the_families_that_are(kind: str, tmp_path: Path) -> None:
    directory = copy("nllb", tmp_path)
    change_json(directory / "config.json", model_type=kind)
    message = refusal(directory)
    assert f"architecture '{kind}' is not supported; supported families: " in message
    assert all(f"{family}," in f"{message}," for family in ("marian", "bart", "mbart", "m2m100", "pegasus"))
    assert f"model_type '{kind}' is not 'm2m_100', which the family m2m100 is for" in refusal(directory, "m2m100")


@pytest.mark.parametrize("name", ["bart", "mbart", "pegasus", "m2m100"])
def test_tensors_that_are_missing_left_over_or_other_than_their_tie(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    tensors = load_file(directory / "model.safetensors")
    removed = "model.decoder.layers.0.encoder_attn.k_proj.bias"
    change_tensors(directory, odd=torch.zeros(2))
    assert "tensor odd not known to this architecture" in refusal(directory)
    shutil.copyfile(GOLDEN / name / "model.safetensors", directory / "model.safetensors")
    change_tensors(directory, **{"lm_head.weight": tensors["model.shared.weight"] + 1})
    assert "lm_head.weight differs from model.shared.weight, to which config.json ties it" in refusal(directory)
    change_tensors(directory, **{"lm_head.weight": None, removed: None})
    assert f"tensor {removed} missing" in refusal(directory)


def test_stored_positions_that_are_not_the_class_s_sinusoids(tmp_path: Path) -> None:
    directory = copy("m2m100", tmp_path)
    change_tensors(directory, **{"model.decoder.embed_positions.weights": torch.zeros(42, 16)})
    assert "is not the sinusoidal table of M2M100ForConditionalGeneration" in refusal(directory)


def change_vocabulary(directory: Path, token: str, number: int) -> None:
    path = directory / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][-1], "content": token, "id": number})
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["bart", "pegasus", "nllb"])
def test_a_vocabulary_larger_than_the_embedding(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    change_vocabulary(directory, "<extra>", 9000)
    assert "tokenizer.json: '<extra>' has id 9000, but the model has" in refusal(directory)


def test_a_vocabulary_that_pushes_languages_out_of_the_embedding(tmp_path: Path) -> None:
    directory = copy("m2m100", tmp_path)
    change_json(directory / "vocab.json", **{f"more{number}": 57 + number for number in range(4)})
    assert "the language zu has id 160, but the model has 160 tokens" in refusal(directory)


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("nllb", {"src_lang": "xxx_Latn"}, "src_lang 'xxx_Latn' is none of the 4 languages: deu_Latn, eng_Latn, fra_Latn"),
    ("m2m100", {"tgt_lang": "tlh"}, "tgt_lang 'tlh' is none of the 100 languages: af, am, "),
    ("m2m100", {"language_codes": "klingon"}, "language_codes 'klingon' is not one of m2m100, wmt21"),
    ("m2m100", {"tokenizer_class": "SMALL100Tokenizer"},
     "tokenizer_class SMALL100Tokenizer is not supported; supported: NllbTokenizer, M2M100Tokenizer"),
    ("m2m100", {"eos_token": "<pad>"}, "<pad> has id 1, but the model's eos_token_id is 2"),
    ("m2m100", {"bos_token": "<begin>"}, "vocab.json: has no <begin>"),
    ("m2m100", {"extra_special_tokens": 7}, "tokenizer_config.json: extra_special_tokens 7 is not a list or an object"),
    ("bart", {"eos_token": "<s>"}, "the eos_token has id 0, but the model's eos_token_id is 2"),
])
def test_tokenizer_settings_that_do_not_fit(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = copy(name, tmp_path)
    change_json(directory / "tokenizer_config.json", **settings)
    assert message in refusal(directory)


def test_tokens_around_the_text_that_the_embedding_has_no_rows_for(tmp_path: Path) -> None:
    directory = copy("bart", tmp_path)
    change_json(directory / "tokenizer.json", post_processor={
        "type": "RobertaProcessing", "cls": ["<s>", 281], "sep": ["</s>", 2],
    })
    assert refusal(directory).endswith("tokenizer.json: post_processor: id 281 is outside the model's 281 tokens")


@pytest.mark.parametrize("name", ["bart", "m2m100"])
def test_a_forced_token_that_the_vocabulary_lacks(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    change_json(directory / "generation_config.json", forced_bos_token_id=281)
    (directory / "model.safetensors").unlink()  # which is said before the weights are looked for
    assert refusal(directory).startswith("generation_config.json: forced_bos_token_id 281 is outside the vocabulary of")


@pytest.mark.parametrize(
    "damage", ["{}", '{"model": {"vocab": 5}}', '{"model": {"vocab": {"a": 0}}, "post_processor": {"type": "Odd"}}']
)
def test_a_tokenizer_of_an_unknown_form(damage: str, tmp_path: Path) -> None:
    directory = copy("bart", tmp_path)
    (directory / "tokenizer.json").write_text(damage)
    assert "tokenizer.json: not a tokenizer, or of an unknown form" in refusal(directory)


def test_a_damaged_sentencepiece_model(tmp_path: Path) -> None:
    directory = copy("m2m100", tmp_path)
    data = (directory / "sentencepiece.bpe.model").read_bytes()
    (directory / "sentencepiece.bpe.model").write_bytes(data[: len(data) // 2])
    assert "sentencepiece.bpe.model: not a SentencePiece model, or a truncated one" in refusal(directory)


@pytest.mark.parametrize(("changes", "message"), [
    ({"languages": [1]}, "tokenizer/tokenizer_config.json: languages is not an object of ids"),
    ({"languages": {"__zu__": 500}}, "tokenizer/vocab.json: '__zu__' has id 500, but the model has 160 tokens"),
    ({"special": []}, "tokenizer/tokenizer_config.json: special is not a list of tokens with ids"),
    ({"special": ["<odd>"]}, "tokenizer/tokenizer_config.json: special is not a list of tokens with ids"),
    ({"unk_token": "<odd>"}, "unk_token '<odd>' is not in tokenizer/vocab.json"),
    ({"kind": "odd"}, "kind 'odd' is not one of "),
])
def test_a_bundle_whose_m2m100_tokenizer_is_damaged(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    golden = Golden.read("m2m100")
    golden.tokenizer(tmp_path)
    change_json(tmp_path / "tokenizer" / "tokenizer_config.json", **changes)
    with pytest.raises(BundleError, match=re.escape(message)):
        Tokenizer.open(tmp_path, describe(golden.checkpoint, "golden", "fp32"))
