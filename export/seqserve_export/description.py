"""What ``model.json`` says of a checkpoint."""

import torch

from seqserve.alignment import Alignment
from seqserve.bundle import ModelDescription
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.graphs import trace
from seqserve_export.graphs.forms import form_of


def describe(checkpoint: LoadedCheckpoint, name: str, precision: str) -> ModelDescription:
    """``model.json`` of a checkpoint."""
    config = checkpoint.model.config
    return ModelDescription(
        name=name, family=checkpoint.family, precision=precision,
        source_vocab_size=config.source_vocab_size, target_vocab_size=config.target_vocab_size,
        max_source_length=config.max_source_length, max_target_length=config.max_target_length,
        source_prefix=checkpoint.source_prefix, source_suffix=checkpoint.source_suffix,
        decoder_prompt=checkpoint.decoder_prompt or (config.decoder_start_id,),
        eos_id=config.eos_id, pad_id=config.pad_id, unk_id=checkpoint.unk_id, states=form_of(checkpoint.model).states(),
        default_max_new_tokens=checkpoint.default_max_new_tokens,
        default_min_new_tokens=checkpoint.default_min_new_tokens, search=checkpoint.search,
        forced_end=checkpoint.forced_end, alignment=alignment_of(checkpoint), languages=checkpoint.languages,
        default_source_language=checkpoint.default_source_language,
        default_target_language=checkpoint.default_target_language,
        dimensions=config.to_dict(),
        provenance={
            **checkpoint.provenance, "torch": torch.__version__, "opset": trace.OPSET, "ir_version": trace.IR_VERSION,
        },
    )


def alignment_of(checkpoint: LoadedCheckpoint) -> Alignment:
    """Whose attention tells alignments."""
    return form_of(checkpoint.model).alignment(checkpoint.alignment)
