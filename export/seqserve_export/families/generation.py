"""Generation settings of a Hugging Face directory: what the bundle takes over, and what it does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqserve.search_defaults import SearchDefaults
from seqserve_export.errors import ExportError
from seqserve_export.families.files import CONFIG_FILE, read_json
from seqserve_export.families.search_settings import APPLIED, NOT_APPLIED, read_search, search_notes

GENERATION_FILE = "generation_config.json"

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
    notes: tuple[str, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """What the decoder is fed before it chooses."""
        return (self.decoder_start_id, *([] if self.forced_first is None else [self.forced_first]))


def read_generation(directory: Path, config: dict[str, Any]) -> Generation:
    """Read generation_config.json; conversions from before it existed keep the same keys in config.json.

    Raises:
        ExportError: naming the file and a setting that cannot be, or cannot be served exactly.
    """
    path = directory / GENERATION_FILE
    values = read_json(path) if path.is_file() else config
    where = GENERATION_FILE if path.is_file() else CONFIG_FILE
    ids = {
        name: _one_id(name, config.get(name) if values.get(name) is None else values[name], where)
        for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    }
    forced_first, forced_end = _forced(values, ids["eos_token_id"], where)
    # max_length and min_length count the decoder start and the forced token, the other two only the forced one.
    forced = int(forced_first is not None)
    longest = (values.get("max_new_tokens") or (values.get("max_length") or 0) - 1) - forced
    shortest = (values.get("min_new_tokens") or (values.get("min_length") or 0) - 1) - forced
    return Generation(
        decoder_start_id=ids["decoder_start_token_id"], eos_id=ids["eos_token_id"], pad_id=ids["pad_token_id"],
        forced_first=forced_first, forced_end=forced_end,
        max_new_tokens=int(longest) if longest > 0 else None,
        min_new_tokens=max(0, int(shortest)),
        suppressed=_suppressed(values, ids["eos_token_id"], where),
        search=read_search(values, where),
        settings={name: values[name] for name in RECORDED if values.get(name) is not None},
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
        raise ExportError(f"{where}: {name} {value!r} is not supported; exactly one id is")
    return value


def _suppressed(values: dict[str, Any], eos_id: int, where: str) -> frozenset[int]:
    """Single tokens that generation never chooses, in any position."""
    words = values.get("bad_words_ids") or []
    if not all(isinstance(word, list) and len(word) == 1 and isinstance(word[0], int) for word in words):
        raise ExportError(f"{where}: bad_words_ids {words!r} is not supported; lists of one id each are")
    suppressed = frozenset(word[0] for word in words) - {eos_id}  # transformers drops the end token from this list
    return suppressed | frozenset(values.get("suppress_tokens") or [])
