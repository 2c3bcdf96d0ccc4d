"""Trained directories of transformers: ids of all of Multi30k, and texts translated by both sides."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from multi30k import sentences
from peers.hub_parity import TOLERANCE, answer, compare, forced, framing_of
from seqserve_export import reference
from seqserve_export.families import LoadedCheckpoint, choose_family
from seqserve_server.tokenizer import Tokenizer

FAMILIES = {"bart", "pegasus", "mbart", "m2m100", "marian"}
SPLITS, LANGUAGES = ("train", "val", "test_2016_flickr"), ("en", "de", "fr")
TRANSLATED, BATCH, ID_BATCH = 200, 50, 2000
AWKWARD = (
    "", " ", "A man", "  A  man  rides ", "A\tman\nrides", "A\u00a0man\u3000rides", "Größe über Äpfel, süß!",
    "日本 é 😀 a", "e\u0301 é ﬁ ２", "▁", "▁▁ A ▁man", "A </s> man", "A</s>man", "<unk>", "A <pad><pad> man",
    "<s> A </s>", "</s", "A <mask> man", "en_XX", "A de_DE", "__de__ A", "eng_Latn A", "x" * 300,
    "A... \"man\" 'n' “dog” – 1,000.50 €", "it 's n't , ok ?",
)


@dataclass(frozen=True)
class Trained:
    """One directory, on both sides."""

    checkpoint: LoadedCheckpoint
    ours: Tokenizer
    theirs: Any
    model: Any

    @classmethod
    def open(cls, directory: Path, work: Path) -> "Trained":
        """Ours as a bundle has it."""
        checkpoint = choose_family(directory).read(directory)
        if checkpoint.tokenizer is None:
            raise SystemExit(f"hub_trained: {directory} has no tokenizer: {checkpoint.all_notes}")
        checkpoint.tokenizer.write(work)
        ours = Tokenizer.open(work)
        assert ours is not None
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
        return cls(checkpoint, ours, transformers.AutoTokenizer.from_pretrained(directory), model)

    def different_ids(self, texts: Sequence[str]) -> list[str]:
        """Texts whose ids differ without special tokens around them."""
        found = []
        for first in range(0, len(texts), ID_BATCH):
            batch = list(texts[first : first + ID_BATCH])
            wanted = self.theirs(batch, add_special_tokens=False)["input_ids"]
            found += [text for text, ids in zip(batch, wanted, strict=True) if self.ours.encode(text) != ids]
        return found

    def different_texts(self, texts: Sequence[str]) -> list[str]:
        """Texts that do not come back from their ids as they do there."""
        rows = [self.ours.encode(text) for text in texts]
        return [
            text for text, ids in zip(texts, rows, strict=True)
            if self.ours.decode(ids) != self.theirs.decode(ids, skip_special_tokens=True)
        ]

    @torch.no_grad()
    def translate(self, texts: Sequence[str], source: str | None, target: str | None) -> list[str]:
        """Translates on both sides; the texts whose tokens or translations differ."""
        checkpoint, config = self.checkpoint, self.checkpoint.model.config
        frame = framing_of(checkpoint).frame(source, target)
        if source is not None:
            self.theirs.src_lang = source
        inputs = self.theirs(list(texts), padding=True, return_tensors="pt")
        rows = self.model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_beams=1, do_sample=False,
            **forced(self.theirs, target),
        ).tolist()
        # M2M100's language tokens are special to transformers only where the directory lists them: without the prompt.
        wanted = [self.theirs.decode(row[len(frame.prompt) :], skip_special_tokens=True) for row in rows]
        decoded = reference.greedy(
            checkpoint.model, [frame.complete(tuple(self.ours.encode(text))) for text in texts],
            checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens, prompts=[frame.prompt] * len(texts),
            forced_end=checkpoint.forced_end,
        )
        found = []
        for text, row, their_text, mine in zip(texts, rows, wanted, decoded, strict=True):
            whole = answer(frame, mine, checkpoint)
            padded = whole + [config.pad_id] * (len(row) - len(whole))
            if padded != row or self.ours.decode(mine.token_ids) != their_text:
                parted = next((at for at, both in enumerate(zip(row, padded, strict=False)) if len({*both}) > 1), "")
                found.append(f"{text!r}: {their_text!r}, {self.ours.decode(mine.token_ids)!r}; tokens part at {parted}")
        return found


def pairs_of(checkpoint: LoadedCheckpoint) -> list[tuple[str | None, str | None]]:
    """The defaults, and for several languages the directions that ``hub_models.py`` trains."""
    if not checkpoint.languages:
        return [(None, None)]
    codes = {
        short: code for short in ("en", "de", "fr") for code in checkpoint.languages
        if code in (short, f"{short}_XX", f"{short}_DE", {"en": "eng", "de": "deu", "fr": "fra"}[short] + "_Latn")
    }
    return [(codes["en"], codes["de"]), (codes["en"], codes["fr"]), (codes["de"], codes["en"])]


def compare_one(directory: Path, data: Path) -> bool:
    """Logits and random content as for random models, then texts."""
    name = directory.name
    result = compare(directory)
    print(result.line(f"{name}: trained"), flush=True)
    good = result.error <= TOLERANCE and not result.different
    for line in result.different[:5]:
        print(f"    {line}")
    with tempfile.TemporaryDirectory() as work:
        trained = Trained.open(directory, Path(work))
        texts = [line for code in LANGUAGES for split in SPLITS for line in sentences(data, code, split)]
        ids, back = trained.different_ids([*texts, *AWKWARD]), trained.different_texts([*texts[::10], *AWKWARD])
        print(f"{name}: ids of {len(texts) + len(AWKWARD)} texts, differ {len(ids)} {ids[:5]}")
        print(f"{name}: texts of {len(texts[::10]) + len(AWKWARD)} rows, differ {len(back)} {back[:5]}", flush=True)
        good &= not ids and not back
        for source, target in pairs_of(trained.checkpoint):
            short = (source or "en")[:2]
            lines = sentences(data, short, "test_2016_flickr")[:TRANSLATED]
            found = [
                each for first in range(0, len(lines), BATCH)
                for each in trained.translate(lines[first : first + BATCH], source, target)
            ]
            print(f"{name}: {source} to {target}: {len(lines)} texts, translated otherwise {len(found)}", flush=True)
            for line in found[:3]:
                print(f"    {line}")
            good &= not found
    return good


def compare_all(directory: Path, data: Path, families: Sequence[str]) -> bool:
    """Every directory below that belongs to one of the families; whether all are equal."""
    good = True
    for path in sorted(directory.iterdir()):
        if path.suffix == ".partial" or not (path / "config.json").is_file():
            continue
        family = choose_family(path).name if _known(path) else None
        if family in FAMILIES and (not families or family in families):
            good &= compare_one(path, data)
    return good


def _known(path: Path) -> bool:
    from seqserve_export.errors import ExportError

    try:
        choose_family(path)
    except ExportError:
        return False
    return True
