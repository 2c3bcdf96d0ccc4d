"""The recurrent encoder-decoder: gated recurrent units on both sides and attention between. Trains, and decodes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqserve_export.model.canonical import CanonicalModel
from seqserve_export.model.recurrent_attention import RecurrentAttention
from seqserve_export.model.recurrent_config import RecurrentConfig


@dataclass(frozen=True)
class Encoded:
    """What the encoder says of one batch.

    Attributes:
        states: [batch, length, hidden], the upper layer's state at every token; zero at padding.
        hidden: [decoder layers, batch, hidden], the last states, those that the decoder begins with.
    """

    states: Tensor
    hidden: Tensor


@dataclass
class RecurrentState:
    """What decoding one batch needs besides its last tokens: the source side is fixed, the rest replaced each step.

    Attributes:
        keys, values: [batch, source, key width] and [batch, source, hidden].
        lengths: [batch], of the sources.
        hidden: [layers, batch, hidden].
        attentional: [batch, hidden], what input feeding feeds; zeros before the first step.
        position: How many target tokens came before.
        weights: One [batch, source] per token so far: what it attended to.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    hidden: Tensor
    attentional: Tensor
    position: int = 0
    weights: list[Tensor] = field(default_factory=list)


class TokenEmbedding(nn.Module):
    """A table of embeddings, with dropout behind."""

    def __init__(self, tokens: nn.Embedding, dropout: float) -> None:
        super().__init__()
        self.tokens = tokens
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., width]."""
        outputs: Tensor = self.dropout(self.tokens(ids))
        return outputs


class RecurrentSeq2Seq(CanonicalModel):
    """Encoder-decoder of gated recurrent units (Cho et al. 2014) with attention.

    Wired as Bahdanau et al. 2015 in the form of ``Seq2SeqAttentionDecoder`` of "Dive into Deep Learning", section "The
    Bahdanau Attention Mechanism", or as Luong et al. 2015, sections 3 and 3.3. The names of its parameters are those
    of a ``native`` checkpoint.
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.embedding_width, config.hidden_width
        source = nn.Embedding(config.source_vocab_size, width)
        target = source if config.shared_embeddings else nn.Embedding(config.target_vocab_size, width)
        self.source_embedding = TokenEmbedding(source, config.dropout)
        self.target_embedding = TokenEmbedding(target, config.dropout)
        directions = 2 if config.bidirectional else 1
        self.encoder = nn.GRU(
            width, hidden // directions, config.encoder_layers, batch_first=True, bidirectional=config.bidirectional,
            dropout=config.dropout if config.encoder_layers > 1 else 0.0,
        )
        fed = hidden if config.wiring == "bahdanau" or config.input_feeding else 0
        self.decoder = nn.GRU(
            fed + width, hidden, config.decoder_layers, batch_first=True,
            dropout=config.dropout if config.decoder_layers > 1 else 0.0,
        )
        self.attention = RecurrentAttention(config)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False) if config.wiring == "luong" else None
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden, config.target_vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(config.target_vocab_size)) if config.output_bias else None
        self.tie()

    @classmethod
    def without_values(cls, config: RecurrentConfig) -> "RecurrentSeq2Seq":
        """A model whose parameters take no memory until they are given (``torch.nn.Module`` calls that "meta")."""
        with torch.device("meta"):
            return cls(config)

    def tie(self) -> None:
        """Make the output projection the target embedding where the configuration says so."""
        if self.config.tied_output:
            self.output.weight = self.target_embedding.tokens.weight

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Read padded ids [batch, length] with valid lengths [batch]."""
        length, least = source.shape[1], self.config.padded_source_length
        places = torch.arange(max(length, least), device=source.device)
        valid = places[None, :] < lengths[:, None]
        # Padding is read only as far as the configuration says; by which id the caller padded is of no account.
        longer = nn.functional.pad(source, (0, len(places) - length))
        ids = longer.masked_fill(~valid, self.config.source_pad_id)
        packed = pack_padded_sequence(
            self.source_embedding(ids), lengths.clamp(min=least).cpu(), batch_first=True, enforce_sorted=False
        )
        outputs, last = self.encoder(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=len(places))
        if self.config.bidirectional:
            # [2 * layers, batch, half] -> [layers, batch, hidden]: both directions' last states side by side.
            last = torch.cat([last[0::2], last[1::2]], dim=-1)
        return Encoded(
            states=(states * valid[:, :, None])[:, :length],
            hidden=last[self.config.encoder_layers - self.config.decoder_layers :],
        )

    def encoder_states(self, source: Tensor, lengths: Tensor) -> Tensor:
        """The states of ``encode``."""
        return self.encode(source, lengths).states

    def begin(self, encoded: Encoded, lengths: Tensor) -> RecurrentState:
        """State before the first target token: what attention compares, computed once per source."""
        return RecurrentState(
            keys=self.attention.project_keys(encoded.states), values=encoded.states, lengths=lengths,
            hidden=encoded.hidden, attentional=torch.zeros_like(encoded.states[:, 0]),
        )

    def decoder_states(self, target: Tensor, state: RecurrentState) -> Tensor:
        """Decoder output [batch, new, hidden] of new target tokens [batch, new]; advances ``state`` by them."""
        embedded = self.target_embedding(target)
        step = self.bahdanau_step if self.config.wiring == "bahdanau" else self.luong_step
        outputs = []
        for token in embedded.unbind(1):
            outputs.append(step(token, state))
            state.position += 1
        dropped: Tensor = self.dropout(torch.stack(outputs, dim=1))
        return dropped

    def bahdanau_step(self, token: Tensor, state: RecurrentState) -> Tensor:
        """Attend with the upper layer's state of the step before, then recur over [context; token]: [batch, hidden]."""
        context = self.attend(state.hidden[-1], state)
        output, state.hidden = self.decoder(torch.cat([context, token], dim=-1)[:, None, :], state.hidden)
        recurred: Tensor = output[:, 0]
        return recurred

    def luong_step(self, token: Tensor, state: RecurrentState) -> Tensor:
        """Recur over the token, attend with the new state h, answer by ``tanh(W_c [context; h])``: [batch, hidden].

        With input feeding the recurrence reads [attentional state of the step before; token].
        """
        if self.combine is None:
            raise AssertionError("the wiring luong has this layer")
        fed = torch.cat([state.attentional, token], dim=-1) if self.config.input_feeding else token
        output, state.hidden = self.decoder(fed[:, None, :], state.hidden)
        context = self.attend(output[:, 0], state)
        state.attentional = torch.tanh(self.combine(torch.cat([context, output[:, 0]], dim=-1)))
        return state.attentional

    def attend(self, query: Tensor, state: RecurrentState) -> Tensor:
        """The context [batch, hidden] of queries [batch, hidden]; keeps its weights in ``state``."""
        steps = torch.full_like(state.lengths, state.position)
        context, weights = self.attention(query, state.keys, state.values, state.lengths, steps)
        state.weights.append(weights)
        attended: Tensor = context
        return attended

    def project(self, states: Tensor) -> Tensor:
        """Vocabulary logits [..., vocabulary] of decoder states [..., hidden]."""
        logits: Tensor = self.output(states)
        return logits if self.output_bias is None else logits + self.output_bias
