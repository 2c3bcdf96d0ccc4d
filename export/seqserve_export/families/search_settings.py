"""Search settings of transformers' generate: those that become a bundle's defaults, and those that are not applied."""

from collections.abc import Mapping
from typing import Any

from seqserve.search_defaults import (
    LEAST_FACTOR,
    MAX_BEAM_SIZE,
    MAX_LENGTH_PENALTY,
    MOST_FACTOR,
    SearchDefaults,
)
from seqserve_export.errors import ExportError
from seqserve_export.families.settings import FLAG, Setting, integer

# What generate takes where nothing is said is what SearchDefaults takes, top_k excepted.
APPLIED = (
    "num_beams", "length_penalty", "early_stopping", "repetition_penalty", "no_repeat_ngram_size", "do_sample",
    "temperature", "top_k", "top_p",
)
TOP_K = 50  # of generate
# Settings that would change an answer, each with the values at which they do nothing.
NOT_APPLIED: dict[str, tuple[Any, ...]] = {
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0), "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, {}, []), "exponential_decay_length_penalty": (None,),
    "num_beam_groups": (None, 1), "diversity_penalty": (None, 0.0), "constraints": (None, []),
    "force_words_ids": (None, []), "num_return_sequences": (None, 1),
    "min_p": (None, 0.0), "top_h": (None,), "typical_p": (None, 1.0), "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0), "penalty_alpha": (None, 0.0),
    "guidance_scale": (None, 1.0), "watermarking_config": (None,), "stop_strings": (None, []), "max_time": (None,),
    "remove_invalid_values": (None, False),
}


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


_FACTOR = Setting(
    f"a number in {LEAST_FACTOR}..{MOST_FACTOR}", lambda value: _within(value, LEAST_FACTOR, MOST_FACTOR)
).or_null()
_SETTINGS = {
    "num_beams": integer(1, MAX_BEAM_SIZE).or_null(),
    "length_penalty": Setting(
        f"a number in {-MAX_LENGTH_PENALTY}..{MAX_LENGTH_PENALTY}",
        lambda value: _within(value, -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY),
    ).or_null(),
    "early_stopping": Setting(
        'true, false, "never"', lambda value: isinstance(value, bool) or (isinstance(value, str) and value == "never")
    ).or_null(),
    "repetition_penalty": _FACTOR, "no_repeat_ngram_size": integer(0).or_null(),
    "do_sample": FLAG.or_null(), "temperature": _FACTOR, "top_k": integer(0).or_null(),
    "top_p": Setting("a number over 0 and at most 1", lambda value: _within(value, 0, 1) and value > 0).or_null(),
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
    given = {name: values[name] for name in APPLIED if values.get(name) is not None}
    beam_size, early = given.get("num_beams", 1), given.get("early_stopping", False)
    return SearchDefaults(
        beam_size=beam_size,
        length_penalty=float(given.get("length_penalty", 1)),
        stopping="exhaustive" if early == "never" else "full" if early else "heuristic",
        repetition_penalty=float(given.get("repetition_penalty", 1)),
        no_repeat_ngram_size=given.get("no_repeat_ngram_size", 0),
        sample=given.get("do_sample", False) and beam_size == 1,
        temperature=float(given.get("temperature", 1)), top_k=given.get("top_k", TOP_K),
        top_p=float(given.get("top_p", 1)),
    )


def search_notes(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """One line for each setting that ``generate`` follows and a bundle does not, and for what its scores leave out."""
    notes = [
        f"{where}: {name} {values[name]!r:.80} is not applied"
        for name, neutral in NOT_APPLIED.items() if values.get(name) not in neutral
    ]
    if values.get("do_sample") and (values.get("num_beams") or 1) > 1:
        notes.append(f"{where}: do_sample is not applied: with num_beams {values['num_beams']} nothing is drawn")
    suppressed = [name for name in ("bad_words_ids", "suppress_tokens") if values.get(name)]
    if (values.get("num_beams") or 1) > 1 and suppressed and not values.get("renormalize_logits"):
        # The two differ by the probability of those tokens, and beams are compared by it.
        notes.append(
            f"{where}: scores leave out the tokens of {' and '.join(suppressed)}, as with renormalize_logits, which is "
            "not set"
        )
    return tuple(notes)
