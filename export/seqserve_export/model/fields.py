"""What the descriptions of all canonical models have in common: plain values, and checks of types, words and sizes."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


class ConfigError(ValueError):
    """A model description that contradicts itself; the message names the field."""


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    """The description of a model as plain values: its fields are the keys of a config.json."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            ConfigError: naming every unknown and every missing key, or a value that does not fit.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise ConfigError(f"unknown keys: {', '.join(unknown)}")
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - set(values)):
            raise ConfigError(f"missing keys: {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in field order."""
        return dataclasses.asdict(self)


def check_fields(config: Any, choices: Mapping[str, tuple[str, ...]], limits: Mapping[str, int]) -> None:
    """Check every field of a frozen dataclass on its own.

    Args:
        choices: The allowed words of the fields that hold one.
        limits: The largest value of the fields that count something; the smallest is 1.

    Raises:
        ConfigError: naming the field, its value and what is allowed.
    """
    for entry in dataclasses.fields(config):
        if (wanted := _ill_typed(entry.type, getattr(config, entry.name))) is not None:
            raise ConfigError(f"{entry.name}: {getattr(config, entry.name)!r:.80} is not {wanted}")
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name}: {getattr(config, name)!r:.80} is not one of {', '.join(allowed)}")
    for name, limit in limits.items():
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}: {getattr(config, name)} must be at least 1")
        if getattr(config, name) > limit:
            raise ConfigError(f"{name}: {getattr(config, name)} is over the limit of {limit}")


def check_vocabularies(config: Any) -> None:
    """Check the special ids against the target vocabulary, shared embeddings against both, and dropout.

    Raises:
        ConfigError: naming the field.
    """
    for name in ("pad_id", "eos_id", "decoder_start_id"):
        if not 0 <= getattr(config, name) < config.target_vocab_size:
            raise ConfigError(
                f"{name}: {getattr(config, name)} is outside the vocabulary of {config.target_vocab_size}"
            )
    if config.shared_embeddings and config.source_vocab_size != config.target_vocab_size:
        raise ConfigError(
            f"shared_embeddings: source_vocab_size {config.source_vocab_size} and "
            f"target_vocab_size {config.target_vocab_size} differ"
        )
    if not 0.0 <= config.dropout < 1.0:
        raise ConfigError(f"dropout: {config.dropout} is outside [0, 1)")


def _ill_typed(declared: object, value: object) -> str | None:
    """What a value should be and is not, or None. JSON would happily carry "8", true or 8.0 for an 8."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if declared is int:
        return None if is_integer else "an integer"
    if declared is bool:
        return None if isinstance(value, bool) else "true or false"
    if declared == int | None:
        return None if is_integer or value is None else "an integer"
    if declared is float or (declared == float | None and value is not None):
        return None if is_integer or (isinstance(value, float) and math.isfinite(value)) else "a finite number"
    return None  # words, of which the choices have all
