"""What every canonical model is to the reference, the proof and the exporter, whatever it is made of."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

from torch import Tensor, nn


class CanonicalConfig(Protocol):
    """What the descriptions of all canonical models say. Lengths count tokens, special tokens included."""

    @property
    def source_vocab_size(self) -> int:
        """Entries of the source vocabulary."""

    @property
    def target_vocab_size(self) -> int:
        """Entries of the target vocabulary."""

    @property
    def max_source_length(self) -> int:
        """The longest source."""

    @property
    def max_target_length(self) -> int:
        """The longest target."""

    @property
    def pad_id(self) -> int:
        """A target id."""

    @property
    def eos_id(self) -> int:
        """A target id."""

    @property
    def decoder_start_id(self) -> int:
        """A target id."""

    @property
    def shared_embeddings(self) -> bool:
        """Whether both sides have one table."""

    @property
    def tied_output(self) -> bool:
        """Whether the output projection is the target's table."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in field order."""


class CanonicalModel(nn.Module, ABC):
    """An encoder-decoder. What ``encode`` and ``begin`` return is its own affair."""

    config: CanonicalConfig

    @abstractmethod
    def encode(self, source: Tensor, lengths: Tensor) -> Any:
        """Read padded ids [batch, length] with valid lengths [batch]."""

    @abstractmethod
    def encoder_states(self, source: Tensor, lengths: Tensor) -> Tensor:
        """Encoder states [batch, length, width] of padded ids: the part of ``encode`` that every model has."""

    @abstractmethod
    def begin(self, encoded: Any, lengths: Tensor) -> Any:
        """State before the first target token. It leaves ``encoded`` as it is."""

    @abstractmethod
    def decoder_states(self, target: Tensor, state: Any) -> Tensor:
        """Decoder output [batch, new, width] of new target tokens [batch, new]; advances ``state`` by them."""

    @abstractmethod
    def project(self, states: Tensor) -> Tensor:
        """Vocabulary logits [..., vocabulary] of decoder states [..., width]."""

    @abstractmethod
    def tie(self) -> None:
        """Make the output projection the target embedding where the configuration says so."""

    def decode(self, target: Tensor, state: Any) -> Tensor:
        """Logits [batch, new, vocabulary] of new target tokens [batch, new]; advances ``state`` by them."""
        return self.project(self.decoder_states(target, state))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Teacher-forced logits [batch, target length, vocabulary]."""
        return self.decode(target, self.begin(self.encode(source, lengths), lengths))
