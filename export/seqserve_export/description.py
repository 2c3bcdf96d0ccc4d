"""What ``model.json`` says of a checkpoint."""

import torch

from seqserve import bundle
from seqserve.alignment import Alignment
from seqserve.bundle import ModelDescription, StateTensor
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.graphs import trace
from seqserve_export.graphs.blocks import padded_head_size
from seqserve_export.graphs.decoder import RETENTION, SELF
from seqserve_export.model import TransformerConfig


def describe(checkpoint: LoadedCheckpoint, name: str, precision: str) -> ModelDescription:
    """``model.json`` of a checkpoint."""
    config = checkpoint.model.config
    return ModelDescription(
        name=name, family=checkpoint.family, precision=precision,
        source_vocab_size=config.source_vocab_size, target_vocab_size=config.target_vocab_size,
        max_source_length=config.max_source_length, max_target_length=config.max_target_length,
        source_prefix=checkpoint.source_prefix, source_suffix=checkpoint.source_suffix,
        decoder_prompt=checkpoint.decoder_prompt or (config.decoder_start_id,),
        eos_id=config.eos_id, pad_id=config.pad_id, unk_id=checkpoint.unk_id, states=state_tensors(config),
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
    """What the source says, else all heads of the last layer but one, which align best (Garg et al. 2019)."""
    config = checkpoint.model.config
    if checkpoint.alignment is not None:
        layer, heads = checkpoint.alignment
        return Alignment(layer, heads, config.decoder_layers, declared=True)
    return Alignment(
        max(config.decoder_layers - 2, 0), tuple(range(config.heads)), config.decoder_layers, declared=False
    )


def state_tensors(config: TransformerConfig) -> tuple[StateTensor, ...]:
    """By layer: keys and values that a row grows, or what it retains; and those that all rows of a request read."""
    count, shape = 2 * config.decoder_layers, (config.heads, bundle.LENGTH_AXIS, padded_head_size(config.head_size))
    cross = StateTensor("cross", count, shape, "float32", scope="request", length="source", update="constant")
    if config.decoder_mixing == "retention":
        # Always float32: it sums over all of the past, and rounding would add up with it.
        kept = (config.heads, config.head_size, config.value_size)
        own = StateTensor(
            RETENTION, config.decoder_layers, kept, "float32", scope="row", length="fixed", update="replace"
        )
    else:
        own = StateTensor(SELF, count, shape, "float32", scope="row", length="target", update="append")
    return own, cross
