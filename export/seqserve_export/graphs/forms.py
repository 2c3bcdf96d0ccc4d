"""Which graphs a canonical model becomes. Nothing else in the exporter asks what kind of model it has."""

from typing import Protocol

import onnx_ir as ir

from seqserve.alignment import Alignment
from seqserve.bundle import LENGTH_AXIS, StateTensor
from seqserve_export.graphs import places, trace
from seqserve_export.graphs.blocks import padded_head_size
from seqserve_export.graphs.decoder import RETENTION, SELF
from seqserve_export.graphs.recurrent_blocks import padded_key_width
from seqserve_export.graphs.recurrent_places import add_recurrent_places
from seqserve_export.model import CanonicalModel, RecurrentConfig, RecurrentSeq2Seq, Transformer, TransformerConfig


class Form(Protocol):
    """A model's graphs, and what a bundle says of them."""

    def precisions(self) -> tuple[str, ...]:
        """Those that there are rules for."""

    def states(self) -> tuple[StateTensor, ...]:
        """What a row or a request holds while it is decoded."""

    def alignment(self, declared: tuple[int, tuple[int, ...]] | None) -> Alignment:
        """Whose attention tells alignments; ``declared``: the layer and the heads that the source says, if it does."""

    def encoder(self) -> ir.Model:
        """The traced encoder."""

    def step(self) -> ir.Model:
        """The traced decoder step, with places for several rows over one source."""

    def scorer(self, alignment: Alignment) -> ir.Model:
        """The traced scorer."""


def form_of(model: CanonicalModel) -> Form:
    """The form of a model's graphs."""
    if isinstance(model, Transformer):
        return TransformerForm(model)
    if isinstance(model, RecurrentSeq2Seq):
        return RecurrentForm(model)
    raise TypeError(f"{type(model).__name__} is no canonical model")


class TransformerForm:
    """Caches of keys and values; or of those of the source alone, and what retention makes of the target."""

    def __init__(self, model: Transformer) -> None:
        self._model, self._config = model, model.config

    def precisions(self) -> tuple[str, ...]:
        """All; but CUDA has no form of retention, whose operator is for the CPU."""
        return ("fp32", "int8") if self._config.decoder_mixing == "retention" else ("fp32", "int8", "fp16")

    def states(self) -> tuple[StateTensor, ...]:
        """Of ``state_tensors``."""
        return state_tensors(self._config)

    def alignment(self, declared: tuple[int, tuple[int, ...]] | None) -> Alignment:
        """What the source says, else all heads of the last layer but one, which align best (Garg et al. 2019)."""
        config = self._config
        if declared is not None:
            layer, heads = declared
            return Alignment(layer, heads, config.decoder_layers, declared=True)
        return Alignment(
            max(config.decoder_layers - 2, 0), tuple(range(config.heads)), config.decoder_layers, declared=False
        )

    def encoder(self) -> ir.Model:
        """See ``graphs.encoder``."""
        return trace.trace_encoder(self._model)

    def step(self) -> ir.Model:
        """See ``graphs.decoder``."""
        step = trace.trace_decoder(self._model)
        places.add_places(step, self._config.heads, padded_head_size(self._config.head_size))
        return step

    def scorer(self, alignment: Alignment) -> ir.Model:
        """See ``graphs.scorer``."""
        return trace.trace_scorer(self._model, alignment.layer, alignment.heads)


class RecurrentForm:
    """Hidden layers that every step replaces, and one attention."""

    def __init__(self, model: RecurrentSeq2Seq) -> None:
        self._model = model

    def precisions(self) -> tuple[str, ...]:
        """Not fp16: CUDA has its own form of the Transformer's graphs, and none of these."""
        return "fp32", "int8"

    def states(self) -> tuple[StateTensor, ...]:
        """Of ``recurrent_states``."""
        return recurrent_states(self._model.config)

    def alignment(self, declared: tuple[int, tuple[int, ...]] | None) -> Alignment:
        """There is but one attention, and looking at the source is all it does."""
        del declared
        return Alignment(0, (0,), 1, declared=True)

    def encoder(self) -> ir.Model:
        """See ``graphs.recurrent_encoder``."""
        return trace.trace_recurrent_encoder(self._model)

    def step(self) -> ir.Model:
        """See ``graphs.recurrent_decoder``."""
        step = trace.trace_recurrent_decoder(self._model)
        add_recurrent_places(step, padded_key_width(self._model.config))
        return step

    def scorer(self, alignment: Alignment) -> ir.Model:
        """See ``graphs.recurrent_scorer``."""
        del alignment
        return trace.trace_recurrent_scorer(self._model)


def state_tensors(config: TransformerConfig) -> tuple[StateTensor, ...]:
    """By layer: keys and values that a row grows, or what it retains; and those that all rows of a request read."""
    count, shape = 2 * config.decoder_layers, (config.heads, LENGTH_AXIS, padded_head_size(config.head_size))
    cross = StateTensor("cross", count, shape, "float32", scope="request", length="source", update="constant")
    if config.decoder_mixing == "retention":
        kept = (config.heads, config.head_size, config.value_size)
        own = StateTensor(
            RETENTION, config.decoder_layers, kept, "float32", scope="row", length="fixed", update="replace"
        )
    else:
        own = StateTensor(SELF, count, shape, "float32", scope="row", length="target", update="append")
    return own, cross


def recurrent_states(config: RecurrentConfig) -> tuple[StateTensor, ...]:
    """What a row replaces: hidden layers, and what is fed. What the rows of a request read: values, and keys of them.

    The encoder begins the hidden layers: it has an output of their name, as it has of values and keys.
    """
    width = config.hidden_width
    own = [("hidden", config.decoder_layers), *([("fed", 1)] if config.input_feeding else [])]
    shared = [("values", width), *([("keys", padded_key_width(config))] if config.score != "dot" else [])]
    return (
        *(StateTensor(name, count, (width,), "float32", scope="row", length="fixed", update="replace")
          for name, count in own),
        *(StateTensor(name, 1, (LENGTH_AXIS, size), "float32", scope="request", length="source", update="constant")
          for name, size in shared),
    )
