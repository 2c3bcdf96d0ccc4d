"""What ``train.py`` can train: of each architecture its configuration, its training model and how its weights begin."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pairs import EOS, PAD, START, Batch
from seqserve_export.model import (
    CanonicalModel,
    RecurrentConfig,
    RecurrentSeq2Seq,
    Transformer,
    TransformerConfig,
)
from seqserve_export.model.attention import masked_softmax
from seqserve_export.model.pooling import pool
from seqserve_export.model.recurrent import RecurrentState
from seqserve_export.model.scores import dot_score, visible_keys

LONGEST = 256  # tokens on either side


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One entry of ``--architecture``.

    Attributes:
        config: Sizes, from the number of vocabulary entries and the dropout.
        training: The model whose ``project`` returns states while it trains: the projection is left to the loss.
        reference: The canonical model of the same parameters.
        initialise: Sets every parameter of a new model.
        updates, peak, dropout: The defaults of the command line: length of the schedule, highest learning rate.
    """

    config: Callable[[int, float], Any]
    training: Callable[[Any], CanonicalModel]
    reference: Callable[[Any], CanonicalModel]
    initialise: Callable[[Any], None]
    updates: int = 5000
    peak: float = 2.5e-3
    dropout: float = 0.1


class TrainingTransformer(Transformer):
    """The model, but its last projection is left to the loss while training; see ``fast.SmoothedLoss``."""

    def project(self, states: Tensor) -> Tensor:
        """[..., width] unchanged when training, [..., vocabulary] when evaluating."""
        return states if self.training else super().project(states)


class TrainingRecurrent(RecurrentSeq2Seq):
    """Likewise; and where no step needs the attention of the step before, all steps of the target at once."""

    def project(self, states: Tensor) -> Tensor:
        """[..., hidden] unchanged when training, [..., vocabulary] when evaluating."""
        return states if self.training else super().project(states)

    def decoder_states(self, target: Tensor, state: RecurrentState) -> Tensor:
        """Decoder output [batch, new, hidden] of new target tokens [batch, new], as the canonical model computes it."""
        config = self.config
        multiplied = config.score in ("dot", "general") and config.window == "global"
        if self.combine is None or config.input_feeding or not multiplied or not self.training:
            return super().decoder_states(target, state)
        recurred, state.hidden = self.decoder(self.target_embedding(target), state.hidden)
        scores = dot_score(recurred, state.keys, config.score_scale)
        weights = masked_softmax(scores, visible_keys(state.lengths, scores.shape[-1]))
        context = pool(self.attention.dropout(weights), state.values)
        dropped: Tensor = self.dropout(torch.tanh(self.combine(torch.cat([context, recurred], dim=-1))))
        return dropped


def transformer_config(entries: int, dropout: float) -> TransformerConfig:
    """4 + 4 layers of width 128: about two million parameters, half of them embeddings."""
    return TransformerConfig(
        source_vocab_size=entries, target_vocab_size=entries,
        width=128, heads=4, head_size=32, ffn_width=256, encoder_layers=4, decoder_layers=4,
        max_source_length=LONGEST, max_target_length=LONGEST, pad_id=PAD, eos_id=EOS, decoder_start_id=START,
        norm_position="pre", final_norm=True, embedding_scale=math.sqrt(128),
        shared_embeddings=True, tied_output=True, dropout=dropout,
    )


def retnet_config(entries: int, dropout: float) -> TransformerConfig:
    """The same with retention in place of the decoder's self-attention, its values twice as wide as keys."""
    return dataclasses.replace(transformer_config(entries, dropout), decoder_mixing="retention")


def recurrent_config(entries: int, dropout: float, **choices: Any) -> RecurrentConfig:
    """Width 192 throughout, so that one table serves both embeddings and the output: about two million parameters."""
    return RecurrentConfig(
        source_vocab_size=entries, target_vocab_size=entries,
        embedding_width=192, hidden_width=192, encoder_layers=1, decoder_layers=1, bidirectional=True,
        max_source_length=LONGEST, max_target_length=LONGEST, pad_id=PAD, eos_id=EOS, decoder_start_id=START,
        shared_embeddings=True, tied_output=True, output_bias=False, dropout=dropout, **choices,
    )


def bahdanau_config(entries: int, dropout: float) -> RecurrentConfig:
    """Additive attention before the recurrence."""
    return recurrent_config(entries, dropout, wiring="bahdanau", score="additive", attention_width=128)


def luong_config(entries: int, dropout: float) -> RecurrentConfig:
    """General attention behind the recurrence, without input feeding."""
    return recurrent_config(entries, dropout, wiring="luong", score="general")


def initialise_transformer(model: Transformer) -> None:
    """Glorot matrices, zero biases, and embeddings of unit length, as they are also the output projection."""
    for name, parameter in model.named_parameters():
        if name.endswith("tokens.weight"):
            nn.init.normal_(parameter, std=model.config.width**-0.5)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def initialise_recurrent(model: RecurrentSeq2Seq) -> None:
    """Glorot matrices, recurrent ones orthogonal gate by gate, zero biases, and embeddings of 0.1 deviation.

    Nothing scales these embeddings up, so those of unit length would leave the first states close to zero.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("tokens.weight"):
            nn.init.normal_(parameter, std=0.1)
        elif "weight_hh" in name:
            for gate in parameter.detach().chunk(3):
                nn.init.orthogonal_(gate)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


ARCHITECTURES = {
    "transformer": Architecture(
        config=transformer_config, training=TrainingTransformer, reference=Transformer,
        initialise=initialise_transformer,
    ),
    "retnet": Architecture(
        config=retnet_config, training=TrainingTransformer, reference=Transformer,
        initialise=initialise_transformer, updates=3000,
    ),
    "bahdanau": Architecture(
        config=bahdanau_config, training=TrainingRecurrent, reference=RecurrentSeq2Seq,
        initialise=initialise_recurrent, updates=1808, peak=3e-3, dropout=0.2,
    ),
    "luong": Architecture(
        config=luong_config, training=TrainingRecurrent, reference=RecurrentSeq2Seq,
        initialise=initialise_recurrent, updates=1808, peak=3e-3, dropout=0.2,
    ),
}


def teacher_forced(model: CanonicalModel, batch: Batch) -> Tensor:
    """What the model answers to each token of the batch's targets but the last, [batch, target length - 1, ...]."""
    return model.decode(batch.target[:, :-1], model.begin(model.encode(batch.source, batch.lengths), batch.lengths))
