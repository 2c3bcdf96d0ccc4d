"""Compare Marian's tokenizer as served with transformers' ``MarianTokenizer``: ids of texts, and texts of ids.

transformers is no dependency of this project; run this where it is installed, beside torch and sentencepiece:

    PYTHONPATH=bench:server:export:proto .venv-peers/bin/python bench/peers/marian_tokenizer.py DATA
    PYTHONPATH=bench:server:export:proto .venv-peers/bin/python bench/peers/marian_tokenizer.py --write DIR

The first trains SentencePiece models on Multi30k's training split and reads all of its sentences; the second saves two
tiny models and what transformers makes of awkward texts: tests/data/marian_text was made so.
"""

import argparse
import io
import json
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from multi30k import sentences
from seqserve.marian_text import MarianSettings, MarianVocabulary
from seqserve_export.tokenizer_files import MarianFiles
from seqserve_server.tokenizer import IncrementalDetokenizer
from seqserve_server.tokenizer.marian import MarianTokenizer

try:
    import transformers
except ImportError:
    sys.exit("marian_tokenizer: transformers is not installed here; make bench-peers installs it")

VOCABULARY, TINY_VOCABULARY, RANDOM_ROWS = 8000, 110, 5000
CODES = (">>deu<<", ">>fra<<")
AWKWARD = (
    "", " ", "A man", "  A  man  rides ", "A\tman\nrides", "A\u00a0man\u3000rides", "Größe über Äpfel, süß!",
    "日本 é 😀 a", "👩\u200d👩\u200d👧", "e\u0301 é ﬁ ２", "▁", "▁▁ A ▁man", "A </s> man", "A</s>man", "<unk>",
    "A <pad><pad> man", "<s> A </s>", "</s", ">>deu<< A man", ">>deu<<A man", ">>deu<<", " >>deu<< A man",
    ">>deu A man", "A >>deu<< man", "</s>>>fra<< A", ">>deu<< >>fra<< A", "<<deu>>",
    "A... \"man\" 'n' “dog” – 1,000.50 €", "\u200bA\u200d man\ufeff", "x" * 300,
)
TINY_TEXTS = {
    "source": ["A man rides a horse.", "Two dogs play in the snow.", "A woman with a red hat, and a small child."],
    "target": ["Ein Mann reitet ein Pferd.", "Zwei Hunde spielen im Schnee.", "Eine Frau mit rotem Hut und Größe."],
}


def train(lines: list[str], file: Path, size: int, **settings: Any) -> None:
    """A SentencePiece model."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
        **settings,
    )
    file.write_bytes(model.getvalue())


def write_vocabularies(directory: Path, *, separate: bool) -> None:
    """Pieces in an order that is not SentencePiece's, as Marian has it: end, unknown, pieces, codes, padding."""
    shuffler, sides = random.Random(0), []
    for side in ("source", "target"):
        processor = SentencePieceProcessor(model_file=str(directory / f"{side}.spm"))
        sides.append([processor.IdToPiece(number) for number in range(processor.GetPieceSize())])
    groups = sides if separate else [sides[0] + sides[1]]
    vocabularies = [sorted({*CODES, *pieces} - {"</s>", "<unk>", "<s>"}) for pieces in groups]
    size = max(map(len, vocabularies))
    for name, own in zip(("vocab.json", "target_vocab.json"), vocabularies, strict=False):
        # Of one size, as Marian's converter demands: transformers looks for the target's padding under the source's id.
        own += [f"filler{number}" for number in range(size - len(own))]
        shuffler.shuffle(own)
        entries = ["</s>", "<unk>", *own, "<pad>"]
        text = json.dumps({token: number for number, token in enumerate(entries)}, ensure_ascii=False, indent=0)
        (directory / name).write_text(text + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"separate_vocabs": separate}) + "\n")


def open_both(directory: Path, bundle: Path) -> tuple[Any, MarianTokenizer]:
    """Theirs from the directory, ours from a bundle's ``tokenizer/`` made of it."""
    settings = MarianSettings.read(directory / "tokenizer_config.json", "tokenizer_config.json")
    MarianFiles(directory, MarianVocabulary.read(directory, "", settings)).write(bundle)
    return transformers.MarianTokenizer.from_pretrained(directory), MarianTokenizer.read(bundle, None)


def target_rows(theirs: Any, german: list[str], ours: MarianTokenizer) -> list[list[int]]:
    """What a model may choose: translations, and ids at random, special ones among them."""
    rows: list[list[int]] = [row[:-1] for row in theirs(text_target=german)["input_ids"]] if german else []
    chooser, count = random.Random(1), len(ours._entries)
    special = [ours.id_of(token) or 0 for token in ("</s>", "<unk>", "<pad>")]
    for _ in range(RANDOM_ROWS):
        choices = (chooser.choice(special) if chooser.random() < 0.1 else chooser.randrange(count) for _ in range(12))
        rows.append(list(choices))
    return rows


def streamed(tokenizer: MarianTokenizer, ids: list[int], whole: str) -> str:
    """The text as it comes one token at a time."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    return "".join([*(detokenizer.push([token_id]) for token_id in ids), detokenizer.finish(whole)])


def compare(name: str, english: list[str], german: list[str], *, separate: bool, **settings: Any) -> int:
    """Print and count what differs."""
    with tempfile.TemporaryDirectory() as temporary:
        directory, bundle = Path(temporary, "marian"), Path(temporary, "bundle")
        directory.mkdir()
        bundle.mkdir()
        train(english, directory / "source.spm", VOCABULARY, **settings)
        train(german, directory / "target.spm", VOCABULARY, **settings)
        write_vocabularies(directory, separate=separate)
        theirs, ours = open_both(directory, bundle)
        texts = [*english, *german, *AWKWARD]
        wrong_ids = sum(theirs(text)["input_ids"][:-1] != ours.encode(text) for text in texts)
        rows = target_rows(theirs, german, ours)
        wrong_texts, wrong_streams = 0, 0
        for row in rows:
            text = ours.decode(row)
            wrong_texts += text != theirs.decode(row, skip_special_tokens=True)
            wrong_streams += text != streamed(ours, row, text)
    print(
        f"{name:24} texts to ids: {len(texts)}, different {wrong_ids}   ids to text: {len(rows)}, different "
        f"{wrong_texts}   streamed: different {wrong_streams}"
    )
    return int(wrong_ids) + int(wrong_texts) + wrong_streams


def write(directory: Path) -> None:
    """Two tiny models with one vocabulary, and expected.json beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    rules = directory / "rules.tsv"  # the usual ones make files of 240 KB
    rules.write_text("A0\t20\n3000\t20\n2026\t2E 2E 2E\nFB01\t66 69\n65 301\tE9\n")
    for side, lines in TINY_TEXTS.items():
        train(lines, directory / f"{side}.spm", TINY_VOCABULARY, normalization_rule_tsv=str(rules))
    rules.unlink()
    write_vocabularies(directory, separate=False)
    with tempfile.TemporaryDirectory() as bundle:
        theirs, ours = open_both(directory, Path(bundle))
    rows = target_rows(theirs, TINY_TEXTS["target"], ours)[:40]
    expected = {
        "transformers": transformers.__version__,
        "encoded": [[text, theirs(text)["input_ids"][:-1]] for text in AWKWARD],
        "decoded": [[row, theirs.decode(row, skip_special_tokens=True)] for row in rows],
    }
    text = json.dumps(expected, ensure_ascii=False) + "\n"
    (directory / "expected.json").write_text(text, encoding="utf-8")


def main() -> int:
    """Print one line per variant; 1 when anything differs."""
    parser = argparse.ArgumentParser(description="Compare Marian's tokenizer with transformers.")
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder with Multi30k's train.en, train.de")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save tiny models and their results instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
    if args.write is not None:
        write(args.write)
        return 0
    if args.data is None:
        parser.error("DATA or --write is required")
    english, german = (sentences(args.data, language, "train") for language in ("en", "de"))
    print(f"transformers {transformers.__version__}; SentencePiece models of {VOCABULARY} pieces a side")
    different = compare("one vocabulary", english, german, separate=False)
    different += compare("separate vocabularies", english, german, separate=True)
    different += compare("BPE with byte fallback", english, german, separate=False, model_type="bpe",
                         byte_fallback=True, character_coverage=0.98)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
