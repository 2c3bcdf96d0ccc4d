"""Hugging Face mBART and M2M100 directories (NLLB among them): a caller names the languages of source and target."""

from pathlib import Path

from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE, Place
from seqserve_export.families.bart import COMMON, no_tokenizer
from seqserve_export.families.bart_layout import Layout
from seqserve_export.families.bart_weights import Read, read_directory
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import digests, has_model_type
from seqserve_export.families.hub_tokenizer import TOKENIZER_FILE, HubText, read_hub_tokenizer, read_settings
from seqserve_export.families.languages import (
    M2M100,
    MBART_25,
    MBART_50,
    NLLB,
    NLLB_LEGACY,
    VOCABULARY_FILE,
    Languages,
    Scheme,
    read_languages,
)
from seqserve_export.m2m100_files import M2M100Files
from seqserve_export.model import TransformerConfig
from seqserve_export.sentencepiece_files import FAIRSEQ_FILE as PIECES_FILE
from seqserve_export.sentencepiece_files import SentencePieceFiles
from seqserve_export.tokenizer_files import SETTINGS_FILE, HubFile

MBART_LAYOUT = Layout(
    family="mbart", model_type="mbart", source_class="MBartForConditionalGeneration", base_class="MBartModel",
    norm_position="pre", embedding_norm=True, final_norm=True, positions="learned", position_offset=2,
    defaults={**COMMON, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2},
    fixed={"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True,
           "static_position_embeddings": False},
)
M2M100_LAYOUT = Layout(
    family="m2m100", model_type="m2m_100", source_class="M2M100ForConditionalGeneration", base_class="M2M100Model",
    norm_position="pre", embedding_norm=False, final_norm=True, positions="sinusoidal", sinusoid_order="fairseq",
    position_offset=None, logits_bias=False,
    defaults={
        **COMMON, "activation_function": "relu", "scale_embedding": True, "bos_token_id": 0, "pad_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 2,
    },
)
HABITS = {MBART_25: "mbart", MBART_50: "nllb", NLLB: "nllb", NLLB_LEGACY: "nllb"}  # where there are pieces alone
NO_LANGUAGES = (
    "no tokenizer file tells the languages: sources given as ids have to hold their language's token themselves, "
    "and answers their target's as a prefix"
)


def recognises_mbart(directory: Path) -> bool:
    """A config.json with ``"model_type": "mbart"``."""
    return has_model_type(directory, MBART_LAYOUT.model_type)


def recognises_m2m100(directory: Path) -> bool:
    """A config.json with ``"model_type": "m2m_100"``."""
    return has_model_type(directory, M2M100_LAYOUT.model_type)


def load_mbart(directory: Path) -> LoadedCheckpoint:
    """Read an mBART directory: mBART-25, whose targets begin with their language, or mBART-50."""
    read = read_directory(directory, MBART_LAYOUT, start_required=False)
    # Only mBART-50 starts decoding from the end token.
    fifty = read.start_given and read.generation.decoder_start_id == read.generation.eos_id
    return _load(directory, read, (MBART_50, MBART_25) if fifty else (MBART_25, MBART_50))


def load_m2m100(directory: Path) -> LoadedCheckpoint:
    """Read an M2M100 or NLLB directory."""
    return _load(directory, read_directory(directory, M2M100_LAYOUT), (NLLB, M2M100))


def _load(directory: Path, read: Read, schemes: tuple[Scheme, ...]) -> LoadedCheckpoint:
    config, generation = read.model.config, read.generation
    text = read_hub_tokenizer(directory, config)
    languages = read_languages(directory, schemes, text, config.source_vocab_size)
    prefix, suffix = source_frame(languages, text, config.eos_id)
    prompt, target = decoder_prompt(languages, read)
    fewest, most = generation.answer_limits(len(prompt), config.max_target_length)
    tokenizer = _tokenizer(directory, languages, text, config)
    files = (TOKENIZER_FILE, SETTINGS_FILE, PIECES_FILE, VOCABULARY_FILE)
    return LoadedCheckpoint(
        family=read.layout.family,
        model=read.model,
        source_prefix=prefix,
        source_suffix=suffix,
        decoder_prompt=prompt,
        languages={} if languages is None else languages.ids,
        default_source_language=None if languages is None else languages.source,
        default_target_language=target,
        search=generation.search_behind(len(prompt)),
        forced_end=generation.forced_end,
        unk_id=None if tokenizer is None else tokenizer.unknown_id,
        default_min_new_tokens=fewest,
        default_max_new_tokens=most,
        tokenizer=tokenizer,
        provenance={
            **read.provenance, "source_files": digests([*read.files, *(directory / name for name in files)]),
            **({} if languages is None else {"tokenizer_class": languages.scheme.tokenizer}),
        },
        no_tokenizer=no_tokenizer(directory, TOKENIZER_FILE, PIECES_FILE),
        notes=read.notes + _notes(languages, read),
    )


def _notes(languages: Languages | None, read: Read) -> tuple[str, ...]:
    notes = () if languages is not None else (NO_LANGUAGES,)
    if read.start_given or (languages is not None and languages.scheme is MBART_25):
        return notes
    return (*notes, "decoder_start_token_id is not given: decoding starts from the end token, as mBART-50 was trained")


def _tokenizer(
    directory: Path, languages: Languages | None, text: HubText | None, config: TransformerConfig
) -> HubFile | M2M100Files | SentencePieceFiles | None:
    if text is not None:
        return text.file
    if languages is None or not (directory / PIECES_FILE).is_file():
        return None
    if languages.scheme is M2M100:
        return M2M100Files.read(directory, read_settings(directory), languages.ids, config)
    codes = sorted(languages.ids, key=languages.ids.__getitem__)
    return SentencePieceFiles.read(directory, HABITS[languages.scheme], config, codes)


def source_frame(
    languages: Languages | None, text: HubText | None, eos_id: int
) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """What stands before and behind the content of a source."""
    if languages is not None:
        return ((), (eos_id, SOURCE_LANGUAGE)) if languages.scheme.behind else ((SOURCE_LANGUAGE,), (eos_id,))
    return (text.prefix, text.suffix) if text is not None else ((), (eos_id,))


def decoder_prompt(languages: Languages | None, read: Read) -> tuple[tuple[Place, ...], str | None]:
    """What the decoder is fed first, and the default target language.

    The target's language is a forced first token, or the start itself: of mBART-25, whose start token is a language
    or, in a model for several, not given. What transformers would force comes before what the tokenizer names.
    """
    generation = read.generation
    if languages is None:
        return generation.prompt, None
    forced, start = generation.forced_first, generation.decoder_start_id
    if forced is not None:
        target = languages.code_of(forced)
        return (start, forced if target is None else TARGET_LANGUAGE), target
    target = languages.code_of(start) if read.start_given else None
    if target is not None:
        return (TARGET_LANGUAGE,), target
    if not read.start_given and languages.scheme is MBART_25:
        return (TARGET_LANGUAGE,), languages.target
    return (start, TARGET_LANGUAGE), languages.target
