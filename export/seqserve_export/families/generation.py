"""Generation settings of a Hugging Face directory: what the bundle takes over, and what it does not."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqserve.search_defaults import SearchDefaults
from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import DEFAULT_MAX_NEW_TOKENS
from seqserve_export.families.files import CONFIG_FILE, read_json
from seqserve_export.families.search_settings import APPLIED, NOT_APPLIED, read_search, search_notes
from seqserve_export.families.settings import IDS, LIST, check_known, integer

GENERATION_FILE = "generation_config.json"

COUNT = integer(0).or_null()
SETTINGS = {
    **dict.fromkeys(("max_new_tokens", "max_length", "min_new_tokens", "min_length"), COUNT),
    "suppress_tokens": IDS.or_null(), "bad_words_ids": LIST.or_null(),
}
RECORDED = (
    *NOT_APPLIED, *APPLIED, "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "renormalize_logits",
)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Generation settings that a bundle can honour.

    Attributes:
        forced_first: What transformers makes the first generated token (language codes are not here), or None.
        forced_end: Whether the last token that a limit allows is the end token.
        max_new_tokens, min_new_tokens: The first is None where the directory does not say. Neither counts the decoder
            start and the forced first token, which transformers counts in part.
        suppressed: Ids that are never generated.
        search: How requests are decoded that do not say.
        settings: The directory's own values, for the record.
        where: The name of the file that they are from.
        notes: What differs from ``transformers.generate``, one line each.
    """

    decoder_start_id: int
    eos_id: int
    pad_id: int
    forced_first: int | None
    forced_end: bool
    max_new_tokens: int | None
    min_new_tokens: int
    suppressed: frozenset[int]
    search: SearchDefaults
    settings: dict[str, Any]
    where: str
    notes: tuple[str, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the decoder is fed before it chooses."""
        return (self.decoder_start_id, *([] if self.forced_first is None else [self.forced_first]))

    def check_forced(self, vocabulary_size: int) -> None:
        """Refuse a forced token, or a suppressed sequence with one, that the target's vocabulary lacks; what else there
        is of ids the model's sizes check.

        Raises:
            ExportError: naming the file, the key and the size.
        """
        if self.forced_first is not None and not 0 <= self.forced_first < vocabulary_size:
            raise ExportError(
                f"{self.where}: forced_bos_token_id {self.forced_first} is outside the vocabulary of {vocabulary_size}"
            )
        for sequence in self.search.suppressed:
            if not all(0 <= token_id < vocabulary_size for token_id in sequence):
                raise ExportError(
                    f"{self.where}: bad_words_ids {list(sequence)!r:.80} is outside the vocabulary of {vocabulary_size}"
                )

    def search_behind(self, prompt: int) -> SearchDefaults:
        """Search settings where so many tokens are fed first: of these, transformers counts all but the start."""
        return replace(self.search, extra_length=prompt - 1)

    def answer_limits(self, prompt: int, most_target: int) -> tuple[int, int]:
        """Fewest and most generated tokens by default.

        A language that a caller names makes the prompt longer than these settings know of; transformers counts it to
        the same limits.

        Args:
            prompt: Tokens that the decoder is fed first.
            most_target: Tokens that the decoder has positions for.
        """
        more = prompt - len(self.prompt)
        wanted = DEFAULT_MAX_NEW_TOKENS if self.max_new_tokens is None else max(1, self.max_new_tokens - more)
        most = min(wanted, most_target - prompt + 1)
        return min(max(0, self.min_new_tokens - more), most), most


def read_generation(directory: Path, config: dict[str, Any]) -> Generation:
    """Read generation_config.json; conversions from before it existed keep the same keys in config.json.

    Raises:
        ExportError: naming the file and a setting that cannot be, or cannot be served exactly.
    """
    path = directory / GENERATION_FILE
    values = read_json(path) if path.is_file() else config
    where = GENERATION_FILE if path.is_file() else CONFIG_FILE
    check_known(directory / where, values, SETTINGS)
    ids = {
        name: _one_id(name, config.get(name) if values.get(name) is None else values[name], where)
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    }
    forced_first, forced_end = _forced(values, ids["eos_token_id"], where)
    # max_length and min_length count the decoder start and the forced token, the other two only the forced one.
    sequences = _sequences(values, where)
    forced = int(forced_first is not None)
    longest = (values.get("max_new_tokens") or (values.get("max_length") or 0) - 1) - forced
    shortest = (values.get("min_new_tokens") or (values.get("min_length") or 0) - 1) - forced
    return Generation(
        decoder_start_id=ids["decoder_start_token_id"], eos_id=ids["eos_token_id"], pad_id=ids["pad_token_id"],
        forced_first=forced_first, forced_end=forced_end,
        max_new_tokens=longest if longest > 0 else None,
        min_new_tokens=max(0, shortest),
        suppressed=_suppressed(values, ids["eos_token_id"]),
        search=replace(read_search(values, where), suppressed=sequences),
        settings={name: values[name] for name in RECORDED if values.get(name) is not None},
        where=where,
        notes=search_notes(values, where),
    )


def _forced(values: dict[str, Any], eos_id: int, where: str) -> tuple[int | None, bool]:
    first, last = (
        None if values.get(name) is None else _one_id(name, values[name], where)
        for name in ("forced_bos_token_id", "forced_eos_token_id")
    )
    if last not in (None, eos_id):
        raise ExportError(f"{where}: forced_eos_token_id {last} is not supported; only the eos_token_id {eos_id} is")
    return first, last is not None


def _one_id(name: str, value: object, where: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ExportError(f"{where}: {name} {value!r:.80} is not supported; exactly one id is")
    return value


def _sequences(values: dict[str, Any], where: str) -> tuple[tuple[int, ...], ...]:
    """Of ``bad_words_ids`` what has several ids: the last of them does not follow the others."""
    words = values.get("bad_words_ids") or []
    if not all(
        isinstance(word, list) and word and all(type(token_id) is int for token_id in word)
        for word in words
    ):
        raise ExportError(f"{where}: bad_words_ids {words!r:.80} is not a list of lists of token ids")
    return tuple(tuple(word) for word in words if len(word) > 1)


def _suppressed(values: dict[str, Any], eos_id: int) -> frozenset[int]:
    """Single tokens that generation never chooses, in any position."""
    words = values.get("bad_words_ids") or []
    # transformers drops the end token from this list.
    suppressed = frozenset(word[0] for word in words if len(word) == 1) - {eos_id}
    return suppressed | frozenset(values.get("suppress_tokens") or [])
