"""Which languages a multilingual directory has, what their ids are, and where its tokenizer puts them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqserve.bundle import BundleError
from seqserve.sentencepiece_file import count_pieces
from seqserve_export.errors import ExportError
from seqserve_export.families import language_codes
from seqserve_export.families.files import read_json
from seqserve_export.families.hub_tokenizer import HubText, read_settings
from seqserve_export.sentencepiece_files import FAIRSEQ_FILE as PIECES_FILE
from seqserve_export.tokenizer_files import SETTINGS_FILE

VOCABULARY_FILE = "vocab.json"
# Classes that say nothing of a scheme: whatever tokenizer.json holds.
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "")
# M2M100 numbers languages by these lists.
NUMBERED = {"m2m100": language_codes.M2M100, "wmt21": language_codes.WMT21}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How one tokenizer class marks languages.

    Attributes:
        tokenizer: Its class, without an ending "Fast".
        pattern: Of language tokens; the group is the code that callers use.
        codes: All of them in the order of their ids, for directories whose files do not list them.
        default_source: What the class takes where nothing names a source language.
        behind: Whether the source language stands behind the end token; else it stands before the text.
    """

    tokenizer: str
    pattern: re.Pattern[str]
    codes: tuple[str, ...]
    default_source: str
    behind: bool = False


_MBART = re.compile(r"([a-z]{2,3}_[A-Z]{2})")
M2M100 = Scheme(
    tokenizer="M2M100Tokenizer", pattern=re.compile(r"__([a-z]+)__"), codes=language_codes.M2M100, default_source="en",
)
NLLB = Scheme(
    tokenizer="NllbTokenizer", pattern=re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"), codes=language_codes.NLLB,
    default_source="eng_Latn",
)
NLLB_LEGACY = Scheme(
    tokenizer="NllbTokenizer", pattern=NLLB.pattern, codes=NLLB.codes, default_source=NLLB.default_source, behind=True,
)
MBART_25 = Scheme(
    tokenizer="MBartTokenizer", pattern=_MBART, codes=language_codes.MBART_25, default_source="en_XX", behind=True,
)
MBART_50 = Scheme(
    tokenizer="MBart50Tokenizer", pattern=_MBART, codes=language_codes.MBART_50, default_source="en_XX",
)


@dataclass(frozen=True, kw_only=True)
class Languages:
    """Those of one directory.

    Attributes:
        ids: By code; never empty.
        source: The code of a source that names none, or None.
        target: What tokenizer_config.json calls the target, or None.
    """

    scheme: Scheme
    ids: dict[str, int]
    source: str | None
    target: str | None

    def code_of(self, token_id: int | None) -> str | None:
        """The code of a language token, or None for any other id."""
        return next((code for code, number in self.ids.items() if number == token_id), None)


def choose_scheme(directory: Path, settings: dict[str, Any], schemes: tuple[Scheme, ...]) -> Scheme:
    """The one that tokenizer_config.json names, or the first of those possible for the files that are there.

    Raises:
        ExportError: the class is none of the schemes'.
    """
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if name in GENERIC:
        numbered = (directory / VOCABULARY_FILE).is_file()
        fitting = [scheme for scheme in schemes if (scheme is M2M100) == numbered]
        scheme = (fitting or list(schemes))[0]
    else:
        named = [scheme for scheme in schemes if scheme.tokenizer == name]
        if not named:
            known = ", ".join(scheme.tokenizer for scheme in schemes)
            path = directory / SETTINGS_FILE
            raise ExportError(f"{path}: tokenizer_class {name} is not supported; supported: {known}")
        scheme = named[0]
    return NLLB_LEGACY if scheme is NLLB and settings.get("legacy_behaviour") else scheme


def read_languages(
    directory: Path, schemes: tuple[Scheme, ...], text: HubText | None, vocabulary_size: int
) -> Languages | None:
    """The directory's languages, or None where no file tells them.

    Args:
        schemes: Those that are possible; the first where nothing tells.
        text: Its ``tokenizer.json``.

    Raises:
        ExportError: naming the file and what does not fit.
    """
    settings = read_settings(directory)
    scheme = choose_scheme(directory, settings, schemes)
    ids = _ids(directory, settings, scheme, text)
    if not ids:
        return None
    code = max(ids, key=ids.__getitem__)
    if ids[code] >= vocabulary_size:
        raise ExportError(
            f"{directory}: the language {code} has id {ids[code]}, but the model has {vocabulary_size} tokens"
        )
    for name in ("src_lang", "tgt_lang"):
        if settings.get(name) is not None and settings[name] not in ids:
            raise ExportError(
                f"{directory / SETTINGS_FILE}: {name} {settings[name]!r:.40} is none of the {len(ids)} languages: "
                f"{', '.join(sorted(ids)[:10])}{', ...' if len(ids) > 10 else ''}"
            )
    default = scheme.default_source if scheme.default_source in ids else None
    return Languages(
        scheme=scheme, ids=ids, source=settings.get("src_lang") or default, target=settings.get("tgt_lang")
    )


def _ids(directory: Path, settings: dict[str, Any], scheme: Scheme, text: HubText | None) -> dict[str, int]:
    if scheme is M2M100:
        return _numbered(directory, settings)
    if text is not None:
        matches = ((scheme.pattern.fullmatch(token), number) for token, number in text.added.items())
        return {match[1]: number for match, number in matches if match}
    if not (directory / PIECES_FILE).is_file():
        return {}
    try:  # pieces stand one place further on than in their file, since fairseq has four special tokens, not three
        first = count_pieces(directory / PIECES_FILE, str(directory / PIECES_FILE)) + 1
    except BundleError as error:
        raise ExportError(str(error)) from None
    return {code: first + place for place, code in enumerate(scheme.codes)}


def _numbered(directory: Path, settings: dict[str, Any]) -> dict[str, int]:
    """M2M100's languages: a list behind vocab.json."""
    path = directory / VOCABULARY_FILE
    if not path.is_file():
        return {}
    kind = settings.get("language_codes") or "m2m100"
    if kind not in NUMBERED:
        raise ExportError(
            f"{directory / SETTINGS_FILE}: language_codes {kind!r:.40} is not one of {', '.join(NUMBERED)}"
        )
    first = len(read_json(path))
    return {code: first + place for place, code in enumerate(NUMBERED[kind])}
