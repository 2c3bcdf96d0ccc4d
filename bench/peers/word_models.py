"""Train the models of the families that have words for tokens on Multi30k, some minutes each: ``d2l`` and ``torch``.

    PYTHONPATH=bench:tests .venv/bin/python -m peers.word_models --data DIR --out var/hub [FAMILY ...]

``d2l`` is the book's model as tests/book_model.py writes it from the book's description, saved as a state dictionary
and two vocabularies; ``torch`` is tests/translator.py around ``torch.nn.Transformer``. Texts are prepared as the book
prepares them. What is there already is kept.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from book_model import Attention, BookModel, DecoderBlock, EncoderBlock, Side
from multi30k import sentences
from peers.book_words import Vocab, prepared, split
from translator import Translator

WIDTH, HEADS, INNER, LAYERS, LONGEST = 128, 4, 256, 2, 60
BATCH, PEAK, WARMUP, SMOOTHING = 64, 1e-3, 400, 0.1
PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Words:
    """Both sides' vocabularies, and the sentence pairs as their ids, with nothing around them."""

    source: Vocab
    target: Vocab
    pairs: list[tuple[list[int], list[int]]]

    @classmethod
    def read(cls, data: Path) -> "Words":
        """Of the training split, as the book reads a data set."""
        english, german = ([split(prepared(line)) for line in sentences(data, code, "train")] for code in ("en", "de"))
        source, target = Vocab(english), Vocab(german)
        both = zip(english, german, strict=True)
        return cls(source, target, [([source[word] for word in one], [target[word] for word in two])
                                    for one, two in both])

    def batches(self, prefix: list[int], seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Shuffled, of similar lengths: complete sources [batch, n], fed and wanted ids [batch, m]."""
        order = sorted(range(len(self.pairs)), key=lambda place: tuple(map(len, self.pairs[place])))
        chunks = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
        begin, end, pad = (self.target[word] for word in (BEGIN, END, PAD))
        for number in torch.randperm(len(chunks), generator=torch.Generator().manual_seed(seed)).tolist():
            pairs = [self.pairs[place] for place in chunks[number]]
            yield (
                padded([[*prefix, *source, self.source[END]] for source, _ in pairs], self.source[PAD]),
                padded([[begin, *target] for _, target in pairs], pad),
                padded([[*target, end] for _, target in pairs], pad),
            )


def padded(rows: list[list[int]], pad: int) -> Tensor:
    """[batch, longest]."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)


def book_in_batches(model: BookModel) -> Forward:
    """The book's forward for padded batches, with its own layers: it trains only, and is no reference for anything."""
    def attend(layer: Attention, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        def heads(states: Tensor) -> Tensor:
            return states.reshape(*states.shape[:2], layer.heads, -1).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            heads(layer.W_q(queries)), heads(layer.W_k(keys)), heads(layer.W_v(keys)), attn_mask=visible
        )
        result: Tensor = layer.W_o(mixed.transpose(1, 2).flatten(2))
        return result

    def embed(side: Side, ids: Tensor) -> Tensor:
        rows = side.embed(ids.flatten().tolist(), list(range(ids.shape[1])) * len(ids))
        return rows.reshape(*ids.shape, -1)

    def forward(source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        seen = ~padding[:, None, None, :]
        past = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).tril()
        states = embed(model.encoder, source)
        for block in model.encoder.blks:
            assert isinstance(block, EncoderBlock)
            states = block.addnorm1(states, attend(block.attention, states, states, seen))
            states = block.addnorm2(states, block.ffn(states))
        outputs = embed(model.decoder, target)
        for block in model.decoder.blks:
            assert isinstance(block, DecoderBlock)
            outputs = block.addnorm1(outputs, attend(block.attention1, outputs, outputs, past))
            outputs = block.addnorm2(outputs, attend(block.attention2, outputs, states, seen))
            outputs = block.addnorm3(outputs, block.ffn(outputs))
        logits: Tensor = model.decoder.get_submodule("dense")(outputs)
        return logits

    return forward


def train(name: str, model: nn.Module, forward: Forward, words: Words, prefix: list[int], seconds: float) -> None:
    """Adam on cross-entropy until the time is up."""
    optimizer = torch.optim.Adam(model.parameters(), lr=PEAK, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, math.sqrt(WARMUP / (step + 1)))
    )
    begun, update, epoch, mean = time.monotonic(), 0, 0, 0.0
    model.train()
    while time.monotonic() - begun < seconds:
        for source, fed, wanted in words.batches(prefix, epoch):
            logits = forward(source, fed, source == words.source[PAD])
            loss = nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten(), ignore_index=words.target[PAD], label_smoothing=SMOOTHING
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            update, mean = update + 1, 0.98 * mean + 0.02 * loss.item()
            if update % 100 == 0:
                print(f"{name}: update {update}, loss {mean:.2f}, {time.monotonic() - begun:.0f} s", flush=True)
            if time.monotonic() - begun >= seconds:
                break
        epoch += 1
    model.eval()


def build_book(words: Words, directory: Path, seconds: float) -> None:
    """The book's model, its vocabularies beside it."""
    model = BookModel(
        len(words.source.idx_to_token), len(words.target.idx_to_token), width=WIDTH, inner=INNER, heads=HEADS,
        blocks=LAYERS,
    )
    train("d2l", model, book_in_batches(model), words, [], seconds)
    write_words(words, directory)
    save_file(model.state_dict(), directory / "model.safetensors")
    settings = {"num_hiddens": WIDTH, "ffn_num_hiddens": INNER, "num_heads": HEADS, "num_blks": LAYERS,
                "use_bias": False, "num_steps": LONGEST}
    (directory / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def build_torch(words: Words, directory: Path, seconds: float) -> None:
    """A model around PyTorch's; sources have the begin token in front, as in its tutorial."""
    begin = words.source[BEGIN]
    model = Translator(
        width=WIDTH, heads=HEADS, inner=INNER, layers=(LAYERS, LAYERS), rows=256, dropout=0.1,
        entries=(len(words.source.idx_to_token), len(words.target.idx_to_token)),
    )
    train("torch", model, model.batch, words, [begin], seconds)
    write_words(words, directory)
    save_file(model.state_dict(), directory / "model.safetensors")
    settings = {
        "format": "torch.nn.Transformer", "prefix": "transformer.", "heads": HEADS,
        "source_embedding": "source.weight", "target_embedding": "target.weight", "output": "generator.weight",
        "output_bias": "generator.bias", "bos_id": words.target[BEGIN], "eos_id": words.target[END],
        "pad_id": words.target[PAD], "unk_id": words.source["<unk>"], "source_prefix": [begin], "max_length": 256,
        "source_suffix": [words.source[END]], "max_new_tokens": LONGEST,
        "source_vocab": "source_vocab.json", "target_vocab": "target_vocab.json",
    }
    (directory / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def write_words(words: Words, directory: Path) -> None:
    """Lists in id order."""
    for name, vocab in (("source", words.source), ("target", words.target)):
        text = json.dumps(vocab.idx_to_token, ensure_ascii=False, indent=0)
        (directory / f"{name}_vocab.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Build what is asked for and missing."""
    builders = {"d2l": build_book, "torch": build_torch}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", choices=[*builders, []], metavar="FAMILY", help=", ".join(builders))
    parser.add_argument("--data", type=Path, required=True, help="folder with the Multi30k files")
    parser.add_argument("--out", type=Path, default=Path("var/hub"))
    parser.add_argument("--seconds", type=float, default=300, help="training time of each")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    words = Words.read(options.data)
    for family in options.families or builders:
        directory = options.out / family
        if not directory.is_dir():
            torch.manual_seed(0)
            partial = directory.with_name(directory.name + ".partial")
            partial.mkdir(parents=True, exist_ok=True)
            builders[family](words, partial, options.seconds)
            partial.rename(directory)


if __name__ == "__main__":
    main()
