"""What export has to know of a ``tokenizer.json``, read from the file itself: export needs no tokenizer library."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqserve_export.errors import ExportError
from seqserve_export.families.files import read_json
from seqserve_export.families.settings import COLLECTION, FLAG, LIST, TEXT, check_known
from seqserve_export.model import CanonicalConfig
from seqserve_export.tokenizer_files import SETTINGS_FILE, HubFile, check_end, token_text

TOKENIZER_FILE = "tokenizer.json"
CLEAN_UP = "clean_up_tokenization_spaces"

# Of tokenizer_config.json, what the families read.
SETTINGS = {
    **dict.fromkeys(("tokenizer_class", "src_lang", "tgt_lang", "language_codes"), TEXT.or_null()),
    **dict.fromkeys(("legacy_behaviour", CLEAN_UP), FLAG.or_null()),
    "additional_special_tokens": LIST.or_null(), "extra_special_tokens": COLLECTION.or_null(),
}


@dataclass(frozen=True)
class HubText:
    """A checked ``tokenizer.json``.

    Attributes:
        added: Ids of added tokens by their text: special tokens, languages.
        prefix, suffix: What its post-processor puts around a text.
    """

    file: HubFile
    added: dict[str, int] = field(repr=False)
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def read_hub_tokenizer(directory: Path, config: CanonicalConfig) -> HubText | None:
    """The directory's ``tokenizer.json``, or None where it has none.

    Raises:
        ExportError: naming the file and what is malformed, or does not fit the model.
    """
    path = directory / TOKENIZER_FILE
    return check_tokenizer(path, read_json(path), read_settings(directory), config) if path.is_file() else None


def check_tokenizer(
    path: Path, values: dict[str, Any], settings: dict[str, Any], config: CanonicalConfig, content: str | None = None
) -> HubText:
    """The values of a ``tokenizer.json``.

    Args:
        path: The file, or the one that errors are about where the values were made, which ``content`` then has.

    Raises:
        ExportError: naming the file and what is malformed, or does not fit the model.
    """
    try:
        entries = _entries(values["model"])
        added = {str(token["content"]): int(token["id"]) for token in values.get("added_tokens") or []}
        prefix, suffix = _frame(values.get("post_processor"))
        kind = values["model"].get("type")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ExportError(f"{path}: not a tokenizer, or of an unknown form: {error!r:.80}") from None
    ids = entries | added
    token, highest = max(ids.items(), key=lambda item: item[1], default=("", -1))
    size = config.source_vocab_size
    if highest >= size:
        raise ExportError(f"{path}: {token!r:.60} has id {highest}, but the model has {size} tokens")
    if outside := [number for number in prefix + suffix if not 0 <= number < size]:
        raise ExportError(f"{path}: post_processor: id {outside[0]} is outside the model's {size} tokens")
    end = ids.get(_token(settings.get("eos_token")))
    if end is not None:
        check_end(str(path), "the eos_token", end, config)
    if lowest := [token for token, token_id in ids.items() if token_id < 0]:
        raise ExportError(f"{path}: {lowest[0]!r:.60} has a negative id")
    unknown = values["model"].get("unk_id")  # of Unigram; others name the token
    if unknown is not None and (type(unknown) is not int or not 0 <= unknown <= highest):
        raise ExportError(f"{path}: unk_id {unknown!r:.40} is no id of the vocabulary")
    if unknown is None:
        unknown = ids.get(_token(values["model"].get("unk_token") or settings.get("unk_token")))
    notes: tuple[str, ...] = ()
    if settings.get(CLEAN_UP) and kind != "BPE":  # transformers 5 ignores the setting for byte-pair encodings
        notes = (f"{SETTINGS_FILE}: {CLEAN_UP} is not applied: texts keep the spaces before punctuation",)
    return HubText(HubFile(path, unknown, notes, content), added, prefix, suffix)


def read_settings(directory: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none."""
    path = directory / SETTINGS_FILE
    if not path.is_file():
        return {}
    settings = read_json(path)
    check_known(path, settings, SETTINGS)
    return settings


def _entries(model: dict[str, Any]) -> dict[str, int]:
    """Ids by token of a vocabulary, which is a list (Unigram) or an object."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    return {token: int(number) for token, number in vocabulary.items()}


def _token(value: object) -> str:
    content = token_text(value)
    return content if isinstance(content, str) else ""


def _frame(processor: dict[str, Any] | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a post-processor puts before and behind one text."""
    if processor is None or processor["type"] == "ByteLevel":
        return (), ()
    if processor["type"] == "Sequence":
        frames = [_frame(each) for each in processor["processors"]]
        return next((frame for frame in frames if frame != ((), ())), ((), ()))
    if processor["type"] in ("RobertaProcessing", "BertProcessing"):
        return (int(processor["cls"][1]),), (int(processor["sep"][1]),)
    if processor["type"] != "TemplateProcessing":
        raise ValueError(f"post_processor {processor['type']!r}")
    sides: tuple[list[int], list[int]] = ([], [])
    behind = False
    for piece in processor["single"]:
        if "Sequence" in piece:
            behind = True
        else:
            sides[behind].extend(map(int, processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]))
    return tuple(sides[0]), tuple(sides[1])
