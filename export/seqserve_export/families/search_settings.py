"""Search settings of transformers' generate: those that become a bundle's defaults, and those that are not applied."""

from collections.abc import Mapping
from typing import Any

from seqserve.search_defaults import (
    MAX_BEAM_SIZE,
    MAX_LENGTH_PENALTY,
    SearchDefaults,
    SearchError,
    check_length_penalty,
)
from seqserve_export.errors import ExportError
from seqserve_export.families.settings import Setting, integer

# What generate takes where nothing is said is what SearchDefaults takes: one beam, a length penalty of 1, "heuristic".
APPLIED = ("num_beams", "length_penalty", "early_stopping")
# Settings that would change an answer, each with the values at which they do nothing.
NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0), "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0), "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}, []), "exponential_decay_length_penalty": (None,),
    "num_beam_groups": (None, 1), "diversity_penalty": (None, 0.0), "constraints": (None, []),
    "force_words_ids": (None, []), "num_return_sequences": (None, 1),
    "do_sample": (None, False), "temperature": (None, 1.0), "top_k": (None, 0, 50), "top_p": (None, 1.0),
    "min_p": (None, 0.0), "top_h": (None,), "typical_p": (None, 1.0), "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0), "penalty_alpha": (None, 0.0),
    "guidance_scale": (None, 1.0), "watermarking_config": (None,), "stop_strings": (None, []), "max_time": (None,),
    "remove_invalid_values": (None, False),
}


def _is_length_penalty(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        check_length_penalty(value)
    except SearchError:
        return False
    return True


_SETTINGS = {
    "num_beams": integer(1, MAX_BEAM_SIZE).or_null(),
    "length_penalty": Setting(f"a number in {-MAX_LENGTH_PENALTY}..{MAX_LENGTH_PENALTY}", _is_length_penalty).or_null(),
    "early_stopping": Setting(
        'true, false, "never"', lambda value: isinstance(value, bool) or (isinstance(value, str) and value == "never")
    ).or_null(),
}


def read_search(values: Mapping[str, Any], where: str) -> SearchDefaults:
    """The defaults that a bundle takes over from generation settings.

    Args:
        where: The name of their file.

    Raises:
        ExportError: naming the file, the key and what it may hold.
    """
    for name, setting in _SETTINGS.items():
        if not setting.fits(values.get(name)):
            raise ExportError(f"{where}: {name} {values[name]!r:.80} is not {setting.wanted}")
    beam_size, length_penalty, early = (values.get(name) for name in APPLIED)
    return SearchDefaults(
        beam_size=1 if beam_size is None else beam_size,
        length_penalty=1.0 if length_penalty is None else float(length_penalty),
        stopping="exhaustive" if early == "never" else "full" if early else "heuristic",
    )


def search_notes(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """One line for each setting that ``generate`` follows and a bundle does not, and for what its scores leave out."""
    notes = [
        f"{where}: {name} {values[name]!r:.80} is not applied"
        for name, neutral in NOT_APPLIED.items() if values.get(name) not in neutral
    ]
    suppressed = [name for name in ("bad_words_ids", "suppress_tokens") if values.get(name)]
    if (values.get("num_beams") or 1) > 1 and suppressed and not values.get("renormalize_logits"):
        # The two differ by the probability of those tokens, and beams are compared by it.
        notes.append(
            f"{where}: scores leave out the tokens of {' and '.join(suppressed)}, as with renormalize_logits, which is "
            "not set"
        )
    return tuple(notes)
