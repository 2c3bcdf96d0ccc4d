"""BART's vocab.json and merges.txt as the ``tokenizer.json`` that transformers 5 builds of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqserve.bundle import BundleError
from seqserve.whole_files import read_bytes, read_vocabulary
from seqserve_export.errors import ExportError
from seqserve_export.families.files import read_json
from seqserve_export.families.settings import COLLECTION, FLAG, TEXT, check_known
from seqserve_export.tokenizer_files import SETTINGS_FILE, token_text

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
# Of older versions; transformers reads neither where tokenizer_config.json lists its added tokens.
SPECIAL_FILE, ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
FILES = (VOCABULARY_FILE, MERGES_FILE, SPECIAL_FILE, ADDED_FILE)
DECODER = "added_tokens_decoder"
CLASSES = (None, "BartTokenizer", "BartTokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast")

# In transformers' order, which is that of the ids of those that the vocabulary lacks.
NAMED = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}
SETTINGS = {
    "tokenizer_class": TEXT.or_null(), "add_prefix_space": FLAG, "trim_offsets": FLAG,
    **dict.fromkeys((DECODER, "extra_special_tokens", "additional_special_tokens"), COLLECTION.or_null()),
}
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_byte_pairs(directory: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The values of a tokenizer.json, and the settings with the class's defaults; None where a file is missing or the
    settings name a class that reads these files otherwise.

    Raises:
        ExportError: naming the file and what is malformed.
    """
    if not all((directory / name).is_file() for name in (VOCABULARY_FILE, MERGES_FILE)):
        return None
    path = directory / SETTINGS_FILE
    settings = read_json(path) if path.is_file() else {}
    check_known(path, settings, SETTINGS)
    if settings.get("tokenizer_class") not in CLASSES:
        return None
    try:
        vocabulary = read_vocabulary(directory / VOCABULARY_FILE, str(directory / VOCABULARY_FILE))
        lines = read_bytes(directory / MERGES_FILE, str(directory / MERGES_FILE)).decode().split("\n")
    except BundleError as error:
        raise ExportError(str(error)) from None
    except UnicodeDecodeError as error:
        raise ExportError(f"{directory / MERGES_FILE}: not UTF-8: {error.reason}") from None
    merges = list(_merges(directory / MERGES_FILE, lines, vocabulary))
    try:
        settings = {**NAMED, **_merged(directory, settings)}
        return _tokenizer(vocabulary, merges, _added(settings, vocabulary), settings), settings
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ExportError(f"{path}: special tokens of an unknown form: {error!r:.80}") from None


def _tokenizer(
    vocabulary: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    ids = vocabulary | {token["content"]: token["id"] for token in added}
    spaced = settings.get("add_prefix_space", False)
    separator, start = (str(token_text(settings[name])) for name in ("sep_token", "cls_token"))
    flags = {"trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": spaced, **flags},
        "post_processor": {
            "type": "RobertaProcessing", "sep": [separator, ids[separator]], "cls": [start, ids[start]],
            "trim_offsets": settings.get("trim_offsets", True), "add_prefix_space": spaced,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, **flags},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges,
        },
    }


def _merges(path: Path, lines: list[str], vocabulary: Mapping[str, int]) -> Iterator[list[str]]:
    """Pairs in the order of their ranks. Lines end as Rust's do: other ends of lines may be in tokens."""
    for number, line in enumerate(lines, start=1):
        pair = line.removesuffix("\r").split(" ")
        if line.startswith("#version") or (pair == [""] and number == len(lines)):
            continue
        if len(pair) != 2:
            raise ExportError(f"{path}: line {number} is {line!r:.60}, not two tokens with a space between")
        if missing := [token for token in (*pair, "".join(pair)) if token not in vocabulary]:
            raise ExportError(f"{path}: line {number}: {missing[0]!r:.60} is not in {VOCABULARY_FILE}")
        yield pair


def _merged(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, and what older versions kept in two files beside them."""
    if settings.get(DECODER) is not None:
        return settings
    older = {name: read_json(directory / name) if (directory / name).is_file() else {}
             for name in (SPECIAL_FILE, ADDED_FILE)}
    named = {
        name: {**value, "special": True} if isinstance(value, dict) and name in NAMED else value
        for name, value in older[SPECIAL_FILE].items()
    }
    check_known(directory / SPECIAL_FILE, named, SETTINGS)
    settings = {**settings, **named}
    special = {token_text(token) for token in (*(settings.get(name) for name in NAMED), *_extra(settings))}
    decoder = {
        str(token_id): {"content": token, "special": token in special, "normalized": token not in special}
        for token, token_id in older[ADDED_FILE].items()
    }
    return {**settings, DECODER: decoder}


def _extra(settings: Mapping[str, Any]) -> list[Any]:
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return list(extra.values() if isinstance(extra, dict) else extra)


def _added(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[dict[str, Any]]:
    """Entries of ``added_tokens`` in the order of their ids; what the vocabulary lacks comes behind it."""
    listed = sorted((settings[DECODER] or {}).items(), key=lambda item: int(item[0]))
    tokens = {token["content"]: token for _, token in listed}
    for name in NAMED:
        if settings[name] is not None:
            text = token_text(settings[name])
            token = tokens.get(text, settings[name])
            tokens[text] = {**(token if isinstance(token, dict) else {"content": token}), "special": True}
    for token in _extra(settings):
        tokens.setdefault(token_text(token), token if isinstance(token, dict) else {"content": token, "special": True})
    found, behind = [], max(vocabulary.values()) + 1
    for text, token in tokens.items():
        if not isinstance(text, str):
            raise TypeError(text)
        token_id = vocabulary.get(text)
        if token_id is None:
            token_id, behind = behind, behind + 1
        special = bool(token.get("special", False))
        flags = {flag: bool(token.get(flag, flag == "normalized" and not special)) for flag in TOKEN_FLAGS}
        found.append({"id": token_id, "content": text, **flags, "special": special})
    return sorted(found, key=lambda token: int(token["id"]))
