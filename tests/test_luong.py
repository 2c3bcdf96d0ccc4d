"""This project's own recurrent checkpoints, of both wirings: read back as written, refused where they do not fit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_edits import change_json, load, refusal
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.families.checkpoint import SourceOptions
from seqserve_export.families.native import save_native
from seqserve_export.model import RecurrentConfig, RecurrentSeq2Seq

TOKENIZER = Path(__file__).parent.parent / "demo" / "en-de" / "tokenizer.json"
LUONG = RecurrentConfig(
    source_vocab_size=40, target_vocab_size=30, embedding_width=6, hidden_width=8, encoder_layers=2, decoder_layers=1,
    max_source_length=50, max_target_length=60, pad_id=0, eos_id=1, decoder_start_id=2, wiring="luong", score="dot",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "dot": {"scaled": True},
    "general": {"score": "general", "bidirectional": True, "input_feeding": True},
    "concat": {"score": "concat", "attention_width": 5, "window": "monotonic", "half_window": 2},
    "predictive": {"score": "general", "window": "predictive", "half_window": 3, "output_bias": False},
    "tied": {"target_vocab_size": 40, "shared_embeddings": True, "embedding_width": 8, "tied_output": True},
    "bahdanau": {"wiring": "bahdanau", "score": "additive", "attention_width": 7},
}


def written(directory: Path, tokenizer: Path | None = None, **changes: Any) -> RecurrentSeq2Seq:
    torch.manual_seed(1)
    directory.mkdir()
    model = RecurrentSeq2Seq(dataclasses.replace(LUONG, **changes)).eval()
    save_native(model, directory, tokenizer)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_is_read_back_as_the_model_that_was_written(tmp_path: Path, variant: str) -> None:
    model = written(tmp_path / "source", **VARIANTS[variant])
    checkpoint = load(tmp_path / "source")
    assert checkpoint.family == model.config.wiring
    assert checkpoint.model.config == model.config
    assert (checkpoint.source_suffix, checkpoint.default_max_new_tokens) == ((1,), 60)
    batch = torch.tensor([[7, 5, 9, 1], [8, 1, 0, 0]]), torch.tensor([4, 2]), torch.tensor([[2, 5, 6], [2, 8, 8]])
    torch.testing.assert_close(checkpoint.model(*batch), model(*batch), atol=1e-6, rtol=0)
    torch.testing.assert_close(checkpoint.model.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_its_tokenizer_is_kept(tmp_path: Path) -> None:
    written(tmp_path / "source", TOKENIZER, source_vocab_size=8000)
    checkpoint = load(tmp_path / "source")
    assert (checkpoint.unk_id, checkpoint.notes) == (3, ())
    assert checkpoint.tokenizer is not None
    change_json(tmp_path / "source" / "config.json", source_vocab_size=7999)
    assert "shapes disagree with config.json: source_embedding.tokens.weight" in refusal(tmp_path / "source")


def test_the_other_wiring_is_another_family(tmp_path: Path) -> None:
    written(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    assert refusal(tmp_path / "source", "bahdanau") == f"{path}: wiring 'luong' is not that of the family bahdanau"
    change_json(path, wiring="transformer")
    told = f"{path}: wiring 'transformer' is not that of the family luong"
    assert refusal(tmp_path / "source", "luong") == told
    assert "names no known architecture" in refusal(tmp_path / "source")


@pytest.mark.parametrize(("changes", "told"), [
    ({"score": "cosine"}, "score: 'cosine' is not one of additive, dot, general, concat"),
    ({"window": "local"}, "window: 'local' is not one of global, monotonic, predictive"),
    ({"hidden_width": 10**9}, "hidden_width: 1000000000 is over the limit of 65536"),
    ({"hidden_width": "8"}, "hidden_width: '8' is not an integer"),
    ({"half_window": 0}, "half_window: 0 must be at least 1"),
    ({"decoder_layers": 3}, "decoder_layers: 3 is more than the 2 encoder_layers"),
    ({"padded_source_length": 51}, "padded_source_length: 51 is outside 0..50"),
    ({"tied_output": True}, "tied_output: embedding_width 6 and hidden_width 8 differ"),
    ({"eos_id": 30}, "eos_id: 30 is outside the vocabulary of 30"),
    ({"hidden_width": ...}, "missing keys: hidden_width"),
    ({"heads": 2}, "unknown keys: heads"),
])
def test_settings_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    written(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    change_json(path, **changes)
    assert refusal(tmp_path / "source").startswith(f"{path}: {told}")


def test_options_that_config_json_has_words_for_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "luong")
    with pytest.raises(ExportError, match="--pad-sources: means nothing to the family luong"):
        choose_family(tmp_path / "luong").read(tmp_path / "luong", SourceOptions(pad_sources=9))
    written(tmp_path / "bahdanau", **VARIANTS["bahdanau"])
    family = choose_family(tmp_path / "bahdanau")
    with pytest.raises(ExportError, match=r"--pad-sources: .*/bahdanau/config\.json says it"):
        family.read(tmp_path / "bahdanau", SourceOptions(pad_sources=9))


def test_no_pickle_is_read(tmp_path: Path) -> None:
    model = written(tmp_path / "source", **VARIANTS["bahdanau"])
    (tmp_path / "source" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "source" / "model.pt")
    assert refusal(tmp_path / "source") == f"{tmp_path / 'source'}: no weights here (model.safetensors)"
