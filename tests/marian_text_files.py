"""The text side of small Marian directories: as transformers was asked about it, or trained on the spot."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from seqserve import bundle

GOLDEN = Path(__file__).parent / "data" / "marian_text"  # made by bench/peers/marian_tokenizer.py --write
GOLDEN_SIZE = 54
FILES = ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json")
LINES = {
    "source": ["A man rides a horse.", "Two dogs play in the snow.", "A woman with a red hat, and a small child."],
    "target": ["Ein Mann reitet ein Pferd.", "Zwei Hunde spielen im Schnee.", "Größe, Äpfel und süße Straßen."],
}


def copy_golden(directory: Path) -> None:
    """Its four files, into a directory that may have others."""
    for name in FILES:
        shutil.copyfile(GOLDEN / name, directory / name)


def train_pieces(lines: list[str], **settings: Any) -> bytes:
    """A SentencePiece model file."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, hard_vocab_limit=False, minloglevel=2,
        **{"vocab_size": 90, "normalization_rule_name": "identity", **settings},
    )
    return model.getvalue()


def write_separate(directory: Path, **settings: Any) -> dict[str, dict[str, int]]:
    """Models for both sides, each with a vocabulary of its own; returns these."""
    vocabularies = {}
    for side, name in (("source", "vocab.json"), ("target", "target_vocab.json")):
        (directory / f"{side}.spm").write_bytes(train_pieces(LINES[side], **settings))
        processor = SentencePieceProcessor(model_file=str(directory / f"{side}.spm"))
        pieces = [processor.IdToPiece(number) for number in range(processor.GetPieceSize())]
        entries = ["</s>", "<unk>", *sorted({*pieces} - {"</s>", "<unk>", "<s>"}, reverse=True), "<pad>"]
        vocabularies[side] = {token: number for number, token in enumerate(entries)}
        (directory / name).write_text(json.dumps(vocabularies[side]))
    (directory / "tokenizer_config.json").write_text(json.dumps({"separate_vocabs": True}))
    return vocabularies


def as_bundle(directory: Path) -> Path:
    """A directory whose files become a bundle's ``tokenizer/``, with the kind written into the settings."""
    (directory / "tokenizer").mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_file():
            path.rename(directory / "tokenizer" / path.name)
    settings = directory / bundle.TOKENIZER_CONFIG_FILE
    values = json.loads(settings.read_text()) if settings.exists() else {}
    settings.write_text(json.dumps({**values, "kind": "marian"}))
    return directory
