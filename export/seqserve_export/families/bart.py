"""Hugging Face BART and Pegasus directories: one language, or none that the model knows of."""

import json
from pathlib import Path

from seqserve_export.errors import ExportError
from seqserve_export.families.bart_layout import Layout
from seqserve_export.families.bart_weights import Read, read_directory
from seqserve_export.families.byte_pairs import FILES, MERGES_FILE, VOCABULARY_FILE, read_byte_pairs
from seqserve_export.families.checkpoint import LoadedCheckpoint
from seqserve_export.families.files import digests, has_model_type
from seqserve_export.families.hub_tokenizer import (
    TOKENIZER_FILE,
    HubText,
    check_tokenizer,
    read_hub_tokenizer,
    read_settings,
)
from seqserve_export.model import TransformerConfig
from seqserve_export.sentencepiece_files import FAIRSEQ_FILE, HABITS, SentencePieceFiles
from seqserve_export.tokenizer_files import SETTINGS_FILE, HubFile

COMMON = {
    "max_position_embeddings": 1024, "activation_function": "gelu", "scale_embedding": False,
    "tie_word_embeddings": True,
}
BART = Layout(
    family="bart", model_type="bart", source_class="BartForConditionalGeneration", base_class="BartModel",
    norm_position="post", embedding_norm=True, final_norm=False, positions="learned", position_offset=2,
    defaults={
        **COMMON, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    fixed={"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False,
           "static_position_embeddings": False},
)
PEGASUS = Layout(
    family="pegasus", model_type="pegasus", source_class="PegasusForConditionalGeneration", base_class="PegasusModel",
    norm_position="pre", embedding_norm=False, final_norm=True, positions="sinusoidal",
    defaults={
        **COMMON, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1,
    },
    fixed={"normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True,
           "static_position_embeddings": True},
)
# Files that hold a tokenizer which transformers would convert, and this project does not.
PIECES_FILE = HABITS["pegasus"].file
OTHER_TOKENIZERS = (PIECES_FILE, FAIRSEQ_FILE, VOCABULARY_FILE, MERGES_FILE, "vocab.txt")


def recognises_bart(directory: Path) -> bool:
    """A config.json with ``"model_type": "bart"``."""
    return has_model_type(directory, BART.model_type)


def recognises_pegasus(directory: Path) -> bool:
    """A config.json with ``"model_type": "pegasus"``."""
    return has_model_type(directory, PEGASUS.model_type)


def load_bart(directory: Path) -> LoadedCheckpoint:
    """Read a BART directory. Without a tokenizer that says otherwise, sources stand between ``<s>`` and ``</s>``."""
    read = read_directory(directory, BART)
    start = read.values.get("bos_token_id")
    return _load(directory, read, () if start is None else (start,))


def load_pegasus(directory: Path) -> LoadedCheckpoint:
    """Read a Pegasus directory. Sources end with ``</s>``."""
    return _load(directory, read_directory(directory, PEGASUS), ())


def read_bart_text(directory: Path, config: TransformerConfig) -> HubText | None:
    """``vocab.json`` and ``merges.txt``, where there is no ``tokenizer.json``.

    Raises:
        ExportError: naming the file and what is malformed, or does not fit the model.
    """
    read = read_byte_pairs(directory)
    if read is None:
        return None
    path, (values, settings) = directory / VOCABULARY_FILE, read
    content = json.dumps(values, ensure_ascii=False)
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ExportError(f"{path}: has a token that cannot be written in UTF-8") from None
    return check_tokenizer(path, values, settings, config, content)


def _load(directory: Path, read: Read, prefix: tuple[int, ...]) -> LoadedCheckpoint:
    config, generation = read.model.config, read.generation
    text = read_hub_tokenizer(directory, config)
    if text is None and read.layout is BART:
        text = read_bart_text(directory, config)
    tokenizer: HubFile | SentencePieceFiles | None = None if text is None else text.file
    if tokenizer is None and read.layout is PEGASUS and (directory / PIECES_FILE).is_file():
        tokenizer = SentencePieceFiles.read(directory, "pegasus", config)
    made_of = FILES if text is not None and text.file.content is not None else ()
    fewest, most = generation.answer_limits(len(generation.prompt), config.max_target_length)
    return LoadedCheckpoint(
        family=read.layout.family,
        model=read.model,
        source_prefix=prefix if text is None else text.prefix,
        source_suffix=(config.eos_id,) if text is None else text.suffix,
        decoder_prompt=generation.prompt,
        search=generation.search_behind(len(generation.prompt)),
        forced_end=generation.forced_end,
        unk_id=None if tokenizer is None else tokenizer.unknown_id,
        default_min_new_tokens=fewest,
        default_max_new_tokens=most,
        tokenizer=tokenizer,
        provenance={
            **read.provenance,
            "source_files": digests([
                *read.files, *(directory / name for name in (TOKENIZER_FILE, SETTINGS_FILE, PIECES_FILE, *made_of))
            ]),
        },
        no_tokenizer=no_text(directory, read.layout),
        notes=read.notes,
    )


def no_text(directory: Path, layout: Layout) -> str:
    """What there would have to be; BART's two files go together, and may be another class's."""
    if layout is not BART:
        return no_tokenizer(directory, TOKENIZER_FILE, PIECES_FILE)
    pair = (VOCABULARY_FILE, MERGES_FILE)
    there = [name for name in pair if (directory / name).is_file()]
    if len(there) == len(pair) and (name := read_settings(directory).get("tokenizer_class")):
        return f"without {TOKENIZER_FILE} ({SETTINGS_FILE} gives {' and '.join(pair)} to {name:.80})"
    return no_tokenizer(directory, TOKENIZER_FILE, *(pair if there else ()))


def no_tokenizer(directory: Path, *files: str) -> str:
    """Which of the files that could be read are not there, and those that are there and only transformers would read.
    """
    missing, others = (
        [name for name in names if (directory / name).is_file() == there]
        for names, there in ((files, False), (OTHER_TOKENIZERS, True))
    )
    return f"without {' or '.join(missing)}" + (f" (there is {', '.join(others)})" if others else "")
