"""Hugging Face Marian directories (``MarianMTModel``): OPUS-MT and its relatives."""

from pathlib import Path

from seqserve import marian_text
from seqserve_export.families.bart_layout import Layout
from seqserve_export.families.bart_weights import read_directory
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import digests, has_model_type
from seqserve_export.tokenizer_files import MarianFiles

TOKENIZER_FILES = (marian_text.SOURCE_VOCABULARY, marian_text.SOURCE_PIECES, marian_text.TARGET_PIECES)
LAYOUT = Layout(
    family="marian", model_type="marian", source_class="MarianMTModel", base_class="MarianModel",
    norm_position="post", embedding_norm=None, final_norm=False, positions="sinusoidal", separable=True,
    fixed={"normalize_before": False, "add_final_layer_norm": False, "static_position_embeddings": True},
)


def recognises(directory: Path) -> bool:
    """A config.json with ``"model_type": "marian"``."""
    return has_model_type(directory, LAYOUT.model_type)


def load(directory: Path) -> LoadedCheckpoint:
    """Read a Marian directory. Sources are the pieces of the text and the end token; decoding starts from pad."""
    read = read_directory(directory, LAYOUT)
    config = read.model.config
    missing = [name for name in TOKENIZER_FILES if not (directory / name).is_file()]
    tokenizer = None if missing else MarianFiles.read(directory, config)
    fewest, most = read.generation.answer_limits(len(read.generation.prompt), config.max_target_length)
    names_read = (*TOKENIZER_FILES, marian_text.TARGET_VOCABULARY, marian_text.SETTINGS)
    return LoadedCheckpoint(
        family="marian",
        model=read.model,
        source_prefix=(),
        source_suffix=(config.eos_id,),
        decoder_prompt=read.generation.prompt,
        forced_end=read.generation.forced_end,
        search=read.generation.search_behind(len(read.generation.prompt)),
        unk_id=tokenizer.unknown_id if tokenizer is not None else None,
        default_min_new_tokens=fewest,
        default_max_new_tokens=most,
        provenance={
            **read.provenance, "source_files": digests([*read.files, *(directory / name for name in names_read)]),
        },
        tokenizer=tokenizer,
        no_tokenizer=f"without {', '.join(missing)}",
        notes=read.notes,
    )
