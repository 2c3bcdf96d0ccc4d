"""A random small model, exported with the real graphs, as a bundle that the real engine serves."""

from pathlib import Path

from seqserve.alignment import Alignment
from seqserve.bundle import MODEL_FILE, ModelDescription
from seqserve.manifest import write_manifest
from seqserve_export.graphs.forms import state_tensors
from seqserve_export.pipeline import write_graphs
from tiny_model import tiny_model

VOCABULARY = 200
LONGEST = 128


def write_bundle(directory: Path) -> None:
    """Two layers each side, 64 wide, 4 heads of 16; sources up to 128 tokens, and as many new ones."""
    model = tiny_model(
        source_vocab_size=VOCABULARY, target_vocab_size=VOCABULARY, width=64, head_size=16, ffn_width=128,
        max_source_length=LONGEST, max_target_length=LONGEST,
    )
    config = model.config
    directory.mkdir(parents=True, exist_ok=True)
    alignment = Alignment(0, (0, 1), config.decoder_layers, declared=True)
    write_graphs(model, directory, alignment)
    description = ModelDescription(
        name="tiny", family="native", precision="fp32", source_vocab_size=VOCABULARY, target_vocab_size=VOCABULARY,
        max_source_length=LONGEST, max_target_length=LONGEST, source_prefix=(), source_suffix=(config.eos_id,),
        decoder_prompt=(config.decoder_start_id,), eos_id=config.eos_id, pad_id=config.pad_id, unk_id=None,
        states=state_tensors(config), default_max_new_tokens=LONGEST, alignment=alignment,
    )
    (directory / MODEL_FILE).write_text(description.to_json())
    write_manifest(directory)
