"""Compare texts of d2l bundles with the book's own way: ``line.split(" ")`` looked up in its ``Vocab``, and back.

    PYTHONPATH=bench:server:export:proto .venv/bin/python bench/peers/book_words.py DATA

``Vocab`` and the preparation are written from the book's description (sections 9.2 and 10.5), so that the book's
package and all that it plots with need not be installed.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from multi30k import sentences
from seqserve.word_text import SPACES
from seqserve_export.word_files import WordFiles
from seqserve_server.tokenizer import IncrementalDetokenizer
from seqserve_server.tokenizer.words import WordTokenizer

SPLITS = ("train", "val", "test_2016_flickr")
RESERVED = ("<pad>", "<bos>", "<eos>")


class Vocab:
    """The book's: sorted tokens, those seen fewer than ``min_freq`` times unknown."""

    def __init__(self, lines: list[list[str]], min_freq: int = 2) -> None:
        counts = Counter(token for line in lines for token in line)
        kept = {token for token, count in counts.items() if count >= min_freq}
        self.idx_to_token = sorted({"<unk>", *RESERVED, *kept})
        self.token_to_idx = {token: number for number, token in enumerate(self.idx_to_token)}

    def __getitem__(self, token: str) -> int:
        return self.token_to_idx.get(token, self.token_to_idx["<unk>"])


def split(line: str) -> list[str]:
    """The book's ``_tokenize``."""
    return [token for token in line.split(" ") if token]


def prepared(line: str) -> str:
    """The book's ``_preprocess``: no special spaces, lower case, a space before punctuation."""
    text = line.replace("\u202f", " ").replace("\xa0", " ").lower()
    return "".join(
        f" {char}" if place and char in ",.!?" and text[place - 1] != " " else char for place, char in enumerate(text)
    )


def compare(name: str, source: dict[str, list[str]], target: dict[str, list[str]]) -> int:
    """Print and count what differs."""
    vocabs = [Vocab([split(line) for line in side["train"]]) for side in (source, target)]
    entries = [tuple(vocab.idx_to_token) for vocab in vocabs]
    with tempfile.TemporaryDirectory() as bundle:
        WordFiles(entries[0], entries[1], "<unk>", RESERVED, SPACES).write(Path(bundle))
        ours = WordTokenizer.read(Path(bundle), None)
    texts = [line for side in (source, target) for lines in side.values() for line in lines]
    wrong_ids = sum([vocabs[0][token] for token in split(text)] != ours.encode(text) for text in texts)
    wrong_texts, wrong_streams, rows = 0, 0, [line for lines in target.values() for line in lines]
    for line in rows:
        ids = [vocabs[1][token] for token in split(line)]
        text, detokenizer = ours.decode(ids), IncrementalDetokenizer(ours)
        wrong_texts += text != " ".join(vocabs[1].idx_to_token[token_id] for token_id in ids)
        pieces = [detokenizer.push([token_id]) for token_id in ids]
        wrong_streams += "".join([*pieces, detokenizer.finish(text)]) != text
    print(
        f"{name:9} vocabularies of {len(entries[0])} and {len(entries[1])}   texts to ids: {len(texts)}, different "
        f"{wrong_ids}   ids to text: {len(rows)}, different {wrong_texts}   streamed: different {wrong_streams}"
    )
    return wrong_ids + wrong_texts + wrong_streams


def main() -> int:
    """Print one line per preparation; 1 when anything differs."""
    parser = argparse.ArgumentParser(description="Compare words as served with the book's.")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with Multi30k's train.en, train.de and so on")
    args = parser.parse_args()
    english, german = ({part: sentences(args.data, language, part) for part in SPLITS} for language in ("en", "de"))
    different = compare("as it is", english, german)
    sides = [{part: list(map(prepared, lines)) for part, lines in side.items()} for side in (english, german)]
    different += compare("prepared", *sides)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
