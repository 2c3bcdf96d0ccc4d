"""Sentence pairs of Multi30k: reading, numbering, and batches of similar length."""

import gzip
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

PAD, EOS, START, UNKNOWN = 0, 1, 2, 3
TRAIN, VALIDATION, TEST = "train", "val", "test_2016_flickr"


@dataclass(frozen=True)
class Pair:
    """One sentence pair as ids: the source ends in EOS, the target starts with START and ends in EOS."""

    source: list[int]
    target: list[int]


@dataclass(frozen=True)
class Batch:
    """Padded pairs: source [batch, source length], lengths [batch], target [batch, target length]."""

    source: Tensor
    lengths: Tensor
    target: Tensor


def read_lines(data: Path, split: str, language: str) -> list[str]:
    """Lines of ``<data>/<split>.<language>.gz``, without outer white space."""
    with gzip.open(data / f"{split}.{language}.gz", "rt", encoding="utf-8", newline="\n") as lines:
        return [line.strip() for line in lines]


def read_split(data: Path, split: str) -> tuple[list[str], list[str]]:
    """English and German lines of one split.

    Raises:
        ValueError: when the two sides have different numbers of lines.
    """
    english, german = read_lines(data, split, "en"), read_lines(data, split, "de")
    if len(english) != len(german):
        raise ValueError(f"{split}: {len(english)} English lines and {len(german)} German lines")
    return english, german


def source_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each text with the EOS that the encoder expects."""
    return [[*encoding.ids, EOS] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def make_pairs(tokenizer: Tokenizer, english: list[str], german: list[str], longest: int) -> list[Pair]:
    """Number both sides; pairs with a side longer than ``longest`` tokens or an empty side are left out."""
    pairs = [
        Pair(source, [START, *target])
        for source, target in zip(source_ids(tokenizer, english), source_ids(tokenizer, german), strict=True)
    ]
    return [
        pair for pair in pairs
        if 1 < len(pair.source) <= longest and 2 < len(pair.target) <= longest
    ]


def pad(rows: list[list[int]]) -> Tensor:
    """Rows of ids as [rows, longest], filled with PAD on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def collate(pairs: list[Pair]) -> Batch:
    """Pad one batch."""
    return Batch(
        pad([pair.source for pair in pairs]),
        torch.tensor([len(pair.source) for pair in pairs]),
        pad([pair.target for pair in pairs]),
    )


def make_batches(pairs: list[Pair], tokens: int, seed: int) -> list[list[Pair]]:
    """Cut the pairs into batches of at most ``tokens`` predicted target tokens, in an order fixed by ``seed``.

    Pairs of equal length are shuffled before the stable sort, so batches differ between epochs, and the batches are
    shuffled afterwards, so an epoch does not go from short to long.
    """
    order = random.Random(seed)
    shuffled = order.sample(pairs, len(pairs))
    shuffled.sort(key=lambda pair: (len(pair.target), len(pair.source)))
    batches: list[list[Pair]] = []
    current: list[Pair] = []
    count = 0
    for pair in shuffled:
        predicted = len(pair.target) - 1
        if current and count + predicted > tokens:
            batches.append(current)
            current, count = [], 0
        current.append(pair)
        count += predicted
    batches.append(current)
    order.shuffle(batches)
    return batches
