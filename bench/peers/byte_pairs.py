"""Compare texts of BART directories that have only vocab.json and merges.txt with transformers' ``BartTokenizer``.

    PYTHONPATH=bench:server:export:proto .venv-peers/bin/python -m peers.byte_pairs DATA [DIRECTORY]

DIRECTORY has the two files, by default of byte pairs trained on Multi30k. With each variant of the settings beside them
the ``tokenizer.json`` that export makes has to be the one that transformers makes, value by value, and the ids of all
lines of Multi30k the same.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer, Tokenizer

from multi30k import sentences
from seqserve_export.families.byte_pairs import MERGES_FILE, VOCABULARY_FILE, read_byte_pairs

try:
    import transformers
except ImportError:
    sys.exit("byte_pairs: transformers is not installed here; run it with .venv-peers/bin/python")

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SPLITS, LANGUAGES, ENTRIES, ID_BATCH = ("train", "val", "test_2016_flickr"), ("en", "de", "fr"), 8000, 2000
PLAIN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": True}
MASK = {**PLAIN, "content": "<mask>", "lstrip": True}
AWKWARD = (
    "", " ", "A man", "  A  man  rides ", "A\tman\nrides", "A\u00a0man\u3000rides", "Größe über Äpfel, süß!",
    "日本 é 😀 a", "e\u0301 é ﬁ ２", "A </s> man", "A</s>man", "<unk>", "A <pad><pad> man", "<s> A </s>", "</s",
    "A <mask> man", "A  <mask>  man", "<mask>man", "one <two> three <two>", "it's don't we'll I'd", "x" * 300,
    "A... \"man\" 'n' “dog” – 1,000.50 €", "Ġ Ċ A", "\u2028 \x85 \ufeff",
)
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "the two files": {},
    "tokenizer_config.json": {"tokenizer_config.json": {"tokenizer_class": "BartTokenizer", "model_max_length": 1024}},
    "a space in front": {"tokenizer_config.json": {"add_prefix_space": True, "trim_offsets": False}},
    "mask takes spaces": {"tokenizer_config.json": {"mask_token": {**MASK, "__type": "AddedToken"}}},
    "added_tokens_decoder": {"tokenizer_config.json": {
        "tokenizer_class": "BartTokenizer", "mask_token": "<mask>",
        "added_tokens_decoder": {"4": MASK, "0": {**PLAIN, "content": "<s>"}, "1": {**PLAIN, "content": "<pad>"}},
    }},
    "special_tokens_map.json": {"special_tokens_map.json": {
        "bos_token": "<s>", "mask_token": {**MASK, "special": False},
    }},
    "added_tokens.json": {"added_tokens.json": {"<two>": ENTRIES}},
    "extra tokens": {"tokenizer_config.json": {"extra_special_tokens": ["<two>", "<pad>"]}},
    "additional tokens": {"tokenizer_config.json": {"additional_special_tokens": ["<two>"]}},
}


def compare(name: str, source: Path, files: dict[str, dict[str, Any]], texts: list[str]) -> bool:
    """Print a line; whether nothing differs."""
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work)
        for file in (VOCABULARY_FILE, MERGES_FILE):
            shutil.copyfile(source / file, directory / file)
        for file, content in files.items():
            (directory / file).write_text(json.dumps(content))
        theirs = transformers.BartTokenizer.from_pretrained(directory)
        read = read_byte_pairs(directory)
    assert read is not None
    values, _ = read
    wanted = json.loads(theirs.backend_tokenizer.to_str())
    parts = [part for part in {*wanted, *values} if wanted.get(part) != values.get(part)]
    ours, wrong = Tokenizer.from_str(json.dumps(values)), 0
    for first in range(0, len(texts), ID_BATCH):
        batch = texts[first : first + ID_BATCH]
        mine = ours.encode_batch(batch)
        wrong += sum(a.ids != b for a, b in zip(mine, theirs(batch)["input_ids"], strict=True))
    print(f"{name:24} texts {len(texts)}, ids that differ {wrong}   parts of tokenizer.json that differ {parts}")
    return not wrong and not parts


def main() -> int:
    """Print one line per variant; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("directory", type=Path, nargs="?")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    lines = [line for code in LANGUAGES for split in SPLITS for line in sentences(options.data, code, split)]
    with tempfile.TemporaryDirectory() as work:
        source = options.directory or Path(work)
        if options.directory is None:
            trained = ByteLevelBPETokenizer()
            trained.train_from_iterator(lines, vocab_size=ENTRIES, special_tokens=SPECIAL, show_progress=False)
            trained.save_model(work)
        good = [compare(name, source, files, [*lines, *AWKWARD]) for name, files in VARIANTS.items()]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
