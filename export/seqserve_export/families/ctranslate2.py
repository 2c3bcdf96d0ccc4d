"""CTranslate2 model directories: ``model.bin`` of a Transformer, its vocabularies and its ``config.json``."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from seqserve.search_defaults import SearchDefaults
from seqserve_export.errors import ExportError
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.ctranslate2_config import complete_config
from seqserve_export.families.ctranslate2_file import ModelFile, looks_like_model, read_model
from seqserve_export.families.ctranslate2_spec import (
    Attributes,
    Tokens,
    check_supported,
    current_names,
    read_attributes,
    read_tokens,
)
from seqserve_export.families.ctranslate2_vocabulary import NAMES, Vocabulary, find_file, read_vocabularies
from seqserve_export.families.ctranslate2_weights import compute_positions, read_weights
from seqserve_export.families.files import CONFIG_FILE, digests, read_json
from seqserve_export.families.settings import FLAG, TEXT, check_known, number
from seqserve_export.families.weights import REST, check, fill, format_note, freeze
from seqserve_export.model import Transformer
from seqserve_export.model.config import ConfigError, TransformerConfig
from seqserve_export.piece_files import PieceFiles
from seqserve_export.tokenizer_files import TokenizerFiles
from seqserve_export.word_files import WordFiles

MODEL_FILE = "model.bin"
VOCABULARY_MAP = "vmap.txt"
SEPARATE_PIECES = ("source.spm", "target.spm")  # which people leave in the directory, or converters copy
SHARED_PIECES = ("sentencepiece.model", "spm.model", "sentencepiece.bpe.model")
PIECES = (*SEPARATE_PIECES, *SHARED_PIECES)
PADS = ("<pad>", "<blank>")
CONFIG_VERSION = 6  # from here on config.json holds the tokens
# Of CTranslate2's translate_batch.
DEFAULT_SEARCH = SearchDefaults(
    beam_size=2, length_penalty=1.0, patience=1.0, stopping="patience", renormalise=True
)
DEFAULT_MAX_NEW_TOKENS = 256
DEFAULT_MIN_NEW_TOKENS = 1
# Of config.json, what is read.
SETTINGS = {
    **dict.fromkeys(("unk_token", "bos_token", "eos_token", "decoder_start_token"), TEXT.or_null()),
    **dict.fromkeys(("add_source_bos", "add_source_eos"), FLAG), "layer_norm_epsilon": number(0, 1).or_null(),
}
PAD_ID = 0  # what CTranslate2 pads with; its models have no token for it


def recognises(directory: Path) -> bool:
    """A model.bin beside a vocabulary, or with CTranslate2's header."""
    path = directory / MODEL_FILE
    if not path.is_file():
        return False
    return any(find_file(directory, name) is not None for name in NAMES) or looks_like_model(path)


def load(directory: Path, pieces: Path | None = None) -> LoadedCheckpoint:
    """Read a CTranslate2 directory. Special tokens surround a source where its settings say so, as in CTranslate2.

    Args:
        pieces: where SentencePiece models lie, if not in the directory itself.
    """
    path = directory / MODEL_FILE
    if not path.is_file():
        raise ExportError(f"{directory}: no model here (no {MODEL_FILE})")
    file = read_model(path)
    file = dataclasses.replace(file, variables=current_names(file))
    check_supported(file)
    config_path = directory / CONFIG_FILE
    settings = read_json(config_path) if config_path.is_file() else {}
    check_known(config_path, settings, SETTINGS)
    tokens = tokens_of(file, settings, config_path)
    source, target = read_vocabularies(directory, tokens.unk)
    attributes = read_attributes(file)
    model, source, target = _fill_model(
        file, attributes, tokens, (source, target), settings.get("layer_norm_epsilon")
    )
    names = [path, config_path, source.file, target.file, directory / VOCABULARY_MAP]
    return LoadedCheckpoint(
        family="ctranslate2",
        model=model,
        source_prefix=(source.id_of(tokens.bos, "bos_token"),) if tokens.add_source_bos else (),
        source_suffix=(source.id_of(tokens.eos, "eos_token"),) if tokens.add_source_eos else (),
        unk_id=source.find(tokens.unk),
        default_max_new_tokens=min(DEFAULT_MAX_NEW_TOKENS, model.config.max_target_length),
        default_min_new_tokens=DEFAULT_MIN_NEW_TOKENS,
        search=DEFAULT_SEARCH,
        alignment=_alignment(attributes, model.config, file.path),
        tokenizer=tokenizer_of(pieces or directory, source, target, tokens),
        provenance={"source_class": f"CTranslate2 {file.spec}", "source_files": digests(names),
                    "ctranslate2": _origin(file, attributes, tokens, pieces or directory)},
        notes=_notes(file, tokens, directory),
    )


def weights(directory: Path) -> Path:
    """The file with the weights."""
    return directory / MODEL_FILE


def tokenizer_of(pieces: Path, source: Vocabulary, target: Vocabulary, tokens: Tokens) -> TokenizerFiles:
    """SentencePiece where its models are there, else whole tokens at spaces, as CTranslate2's own clients take them."""
    unk = tokens.unk if tokens.unk in source.tokens else None
    both = tuple(pieces / name for name in SEPARATE_PIECES)
    one = next((pieces / name for name in SHARED_PIECES if (pieces / name).is_file()), None)
    models = both if all(path.is_file() for path in both) else (one, one)
    if models[0] is not None and models[1] is not None and unk is not None:
        pad = next((token for token in PADS if token in target.tokens), PADS[0])
        return PieceFiles.read(
            source.tokens, target.tokens, (models[0], models[1]), unk=unk, eos=tokens.eos, pad=pad
        )
    return WordFiles(
        source.tokens, target.tokens, unk_token=unk,
        special_tokens=tuple(
            token for token in dict.fromkeys((tokens.bos, tokens.eos, *PADS)) if token in target.tokens
        ),
        source_name=str(source.file), target_name=str(target.file),
    )


def tokens_of(file: ModelFile, settings: dict[str, Any], config_path: Path) -> Tokens:
    """The special tokens: from config.json in files of version 6, from the file itself before.

    Raises:
        ExportError: no config.json where it is needed, or one without a token that every model has.
    """
    if file.version < CONFIG_VERSION:
        return read_tokens(file)
    if not config_path.is_file():
        raise ExportError(f"{config_path}: missing: files of version {CONFIG_VERSION} keep the special tokens there")
    if missing := [name for name in ("unk_token", "eos_token") if settings.get(name) is None]:
        raise ExportError(f"{config_path}: {missing[0]} is not given")
    return Tokens(
        unk=settings["unk_token"], eos=settings["eos_token"],
        bos=settings.get("bos_token") or "",  # of models without one; missed only where it is needed
        start=settings.get("decoder_start_token"),
        add_source_bos=settings.get("add_source_bos", False), add_source_eos=settings.get("add_source_eos", False),
    )


def _fill_model(
    file: ModelFile, attributes: Attributes, tokens: Tokens, vocabularies: tuple[Vocabulary, Vocabulary],
    epsilon: float | None,
) -> tuple[Transformer, Vocabulary, Vocabulary]:
    """The model, and its vocabularies as long as its embeddings."""
    weights = read_weights(file, attributes)
    sizes, added = weights.choices, int(attributes.starts_from_zero)
    target = vocabularies[1].fit(sizes["target_vocab_size"] - added)
    source = vocabularies[0].fit(sizes["source_vocab_size"] - added * sizes["shared_embeddings"])
    if added:
        start_id = len(target.tokens)
        target = target.with_start()
        source = source.with_start() if sizes["shared_embeddings"] else source
    else:
        # Where the caller names the first token there is no right default; such models mostly use the end token.
        start_id = target.id_of(tokens.start or tokens.eos, "decoder_start_token")
    try:
        config = complete_config(
            weights, attributes, pad_id=PAD_ID, eos_id=target.id_of(tokens.eos, "eos_token"),
            decoder_start_id=start_id, epsilon=epsilon,
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise ExportError(f"{file.path}: {error}") from None
    # Sizes follow from a few shapes. All have to agree before the file's word on these costs any memory.
    model = Transformer.without_values(config)
    check(model, weights.tensors, weights.names, file.path, settings=REST)
    compute_positions(weights)
    fill(model, weights.tensors, weights.names, file.path, settings=REST)
    return freeze(model), source, target


def _origin(file: ModelFile, attributes: Attributes, tokens: Tokens, pieces: Path) -> dict[str, Any]:
    weights = {variable.type for name, variable in file.variables.items() if name.endswith("weight")}
    return {
        "binary_version": file.version, "specification": file.spec, "revision": file.revision,
        "weights": sorted(weights), "tokens": dataclasses.asdict(tokens),
        "alignment_layer": attributes.alignment[0], "alignment_heads": attributes.alignment[1],
        "sentencepiece": sorted(name for name in PIECES if (pieces / name).is_file()),
    }


def _alignment(attributes: Attributes, config: TransformerConfig, file: Path) -> tuple[int, tuple[int, ...]]:
    """CTranslate2's choice, which has a default: the first head of the last layer."""
    (layer, count), layers = attributes.alignment, config.decoder_layers
    if not -layers <= layer < layers:
        raise ExportError(f"{file}: alignment_layer: there is no layer {layer} among {layers}")
    if not 0 <= count <= config.heads:
        raise ExportError(f"{file}: alignment_heads: {count} of {config.heads} heads")
    return layer % layers, tuple(range(count or config.heads))


def _notes(file: ModelFile, tokens: Tokens, directory: Path) -> tuple[str, ...]:
    notes = []
    if not tokens.add_source_eos:
        notes.append(
            f"add_source_eos is false: a source ends with {tokens.eos!r} only where the caller sends it, as with "
            "CTranslate2's translate_batch"
        )
    if tokens.start is None:
        notes.append(
            "decoder_start_token is not set: CTranslate2 starts from the first token of the caller's target_prefix; "
            f"the bundle starts from {tokens.eos!r}"
        )
    stored = {variable.type for variable in file.variables.values() if variable.values.ndim > 1}
    notes.extend(format_note({getattr(torch, kind) for kind in stored}))
    if stored & {"int8", "int16"}:
        notes.append(
            "quantised weights are taken for the float32 values that they stand for; CTranslate2 rounds activations "
            "too unless it is told compute_type float32"
        )
    if (directory / VOCABULARY_MAP).is_file():
        notes.append(f"{VOCABULARY_MAP} is not applied: every token can be chosen, as with use_vmap False")
    return tuple(notes)
