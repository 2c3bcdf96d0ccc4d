"""Train the demo models, English to German image captions (Multi30k), on a CPU.

    python demo/train.py --data DIR --out demo/en-de --work DIR
    python demo/train.py --architecture luong --tokenizer demo/en-de/tokenizer.json --data DIR --out demo/luong-en-de
"""

import argparse
import csv
import dataclasses
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from architectures import ARCHITECTURES, Architecture, teacher_forced
from checkpoint import average, load_weights, stored_weights, write_config, write_weights
from fast import smoothed_loss, use_byte_dropout
from pairs import PAD, TEST, TRAIN, VALIDATION, Batch, Pair, collate, make_batches, make_pairs, read_split
from seqserve_export.model import CanonicalModel
from subwords import lossy_lines, train_subwords
from translate import Score, score

log = logging.getLogger("train")


@dataclass(frozen=True)
class Options:
    """The command line."""

    data: Path
    out: Path
    work: Path
    updates: int
    seed: int
    resume: bool
    architecture: Architecture
    tokenizer: Path | None
    dropout: float
    peak: float
    threads: int
    averaged: int
    warmup: int = 500
    tokens: int = 2048
    entries: int = 8000
    smoothing: float = 0.1
    clip: float = 1.0
    validate: int = 4


@dataclass
class Epoch:
    """One line of the curve. Losses are in nats per target token; only the training loss is smoothed."""

    epoch: int
    update: int
    train_loss: float
    validation_loss: float
    validation_bleu: float | None
    seconds: float


def learning_rate(update: int, options: Options) -> float:
    """Linear warm-up to the peak, then linear decay to zero one update after the last."""
    rise = (update + 1) / options.warmup
    fall = (options.updates - update) / max(1, options.updates - options.warmup)
    return options.peak * min(rise, fall, 1.0)


def loss_of(model: CanonicalModel, batch: Batch, smoothing: float) -> Tensor:
    """Mean loss per target token. Padding is dropped before the projection, the most expensive operation."""
    expected = batch.target[:, 1:]
    places = expected != PAD
    states = teacher_forced(model, batch)
    return smoothed_loss(states[places], model.get_parameter("output.weight"), expected[places], smoothing)


def set_dropout(model: CanonicalModel, training: bool) -> None:
    """Switch dropout below ``model``, but not the mode of ``model`` itself, which decides who projects."""
    for child in model.children():
        child.train(training)


class Run:
    """Model, optimizer and place in the data of one training run."""

    def __init__(self, options: Options, tokenizer: Tokenizer) -> None:
        self.options, self.tokenizer = options, tokenizer
        torch.manual_seed(options.seed)
        architecture = options.architecture
        self.model = architecture.training(architecture.config(tokenizer.get_vocab_size(), options.dropout))
        architecture.initialise(self.model)
        use_byte_dropout(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True)
        self.longest = self.model.config.max_target_length
        self.train = make_pairs(tokenizer, *read_split(options.data, TRAIN), self.longest)
        self.english, self.german = read_split(options.data, VALIDATION)
        self.validation = make_pairs(tokenizer, self.english, self.german, self.longest)
        self.update, self.seconds, self.history = 0, 0.0, list[Epoch]()

    @property
    def state_path(self) -> Path:
        """What --resume reads."""
        return self.options.work / "state.pt"

    def save(self) -> None:
        """Write this epoch's weights, and everything that the next epoch depends on."""
        write_weights(stored_weights(self.model, self.model.config), self.weights_path(len(self.history)))
        state: dict[str, Any] = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state(),
            "update": self.update, "seconds": self.seconds,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)

    def restore(self) -> None:
        """Continue after the last complete epoch."""
        state = torch.load(self.state_path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.update, self.seconds = state["update"], state["seconds"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]

    def weights_path(self, epoch: int) -> Path:
        """Where the weights after one epoch lie."""
        return self.options.work / f"epoch-{epoch:03d}.safetensors"

    def step(self, pairs: list[Pair]) -> float:
        """One update; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.update, self.options)
        self.optimizer.zero_grad()
        loss = loss_of(self.model, collate(pairs), self.options.smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.optimizer.step()
        self.update += 1
        return loss.item()

    def validation_loss(self) -> float:
        """Cross entropy per target token of the validation set, without smoothing and without dropout."""
        set_dropout(self.model, False)
        total, tokens = 0.0, 0
        with torch.no_grad():
            for pairs in make_batches(self.validation, self.options.tokens, 0):
                predicted = sum(len(pair.target) - 1 for pair in pairs)
                total += loss_of(self.model, collate(pairs), 0.0).item() * predicted
                tokens += predicted
        set_dropout(self.model, True)
        return total / tokens

    def epoch(self) -> None:
        """One pass over the training set, or what is left of the updates; then measure, log and save."""
        started, number = time.perf_counter(), len(self.history) + 1
        self.model.train()
        batches = make_batches(self.train, self.options.tokens, self.options.seed * 1_000_003 + number)
        batches = batches[: self.options.updates - self.update]
        # tqdm keeps silent by itself (disable=None) where standard error is not a terminal.
        losses = [self.step(pairs) for pairs in tqdm(batches, desc=f"epoch {number}", disable=None, leave=False)]
        last = self.update == self.options.updates
        bleu = None
        if number % self.options.validate == 0 or last:
            bleu = score(self.model, self.tokenizer, self.english, self.german).bleu
        validation_loss = self.validation_loss()
        self.seconds += time.perf_counter() - started
        row = Epoch(number, self.update, sum(losses) / len(losses), validation_loss, bleu, self.seconds)
        self.history.append(row)
        log.info(
            "epoch %d update %d/%d train %.3f val %.3f %s%.0f s", number, self.update, self.options.updates,
            row.train_loss, row.validation_loss, "" if bleu is None else f"BLEU {bleu:.2f} ", self.seconds,
        )
        self.save()


def prepare_tokenizer(options: Options) -> Tokenizer:
    """Train the subwords, or take those that the options name, and check that they lose nothing of the three splits.

    Raises:
        ValueError: when a line does not survive encoding and decoding.
    """
    path = options.work / "tokenizer.json"
    english, german = read_split(options.data, TRAIN)
    given = path if options.resume else options.tokenizer
    tokenizer = train_subwords(english + german, options.entries) if given is None else Tokenizer.from_file(str(given))
    for split in (TRAIN, VALIDATION, TEST):
        for lines in read_split(options.data, split):
            if lossy := lossy_lines(tokenizer, lines):
                raise ValueError(f"{split}: the tokenizer loses text, first in {lossy[0]!r}")
    tokenizer.save(str(path))
    return tokenizer


def write_curve(history: list[Epoch], path: Path) -> None:
    """The training curve as CSV, one line per epoch."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([field.name for field in dataclasses.fields(Epoch)])
        for epoch in history:
            bleu = "" if epoch.validation_bleu is None else f"{epoch.validation_bleu:.2f}"
            losses = (f"{epoch.train_loss:.4f}", f"{epoch.validation_loss:.4f}")
            rows.writerow([epoch.epoch, epoch.update, *losses, bleu, f"{epoch.seconds:.0f}"])


def finish(run: Run) -> None:
    """Average the last epochs, write the checkpoint, and score what was written on validation and test sets."""
    options, config = run.options, run.model.config
    architecture = options.architecture
    newest = range(max(1, len(run.history) - options.averaged + 1), len(run.history) + 1)
    weights = average([run.weights_path(epoch) for epoch in newest])
    options.out.mkdir(parents=True, exist_ok=True)
    write_weights(weights, options.out / "model.safetensors")
    write_config(config, options.out / "config.json")
    write_curve(run.history, options.out / "curve.csv")
    run.tokenizer.save(str(options.out / "tokenizer.json"))
    model = architecture.reference(config).eval()
    load_weights(model, weights)
    for split in (VALIDATION, TEST):
        result: Score = score(model, run.tokenizer, *read_split(options.data, split))
        log.info("%s: BLEU %.2f  %s", split, result.bleu, result.signature)


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a demo model on Multi30k.")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="transformer", help="default: transformer")
    parser.add_argument(
        "--data", type=Path, required=True, help="holds {train,val,test_2016_flickr}.{en,de}.gz, one sentence a line"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the finished checkpoint")
    parser.add_argument("--work", type=Path, help="directory for checkpoints and --resume (default: OUT/work)")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json to take (default: train one on the data)"
    )
    of_its_own = "(default: the architecture's)"
    parser.add_argument("--updates", type=int, help=f"length of the schedule {of_its_own}")
    parser.add_argument("--peak", type=float, help=f"highest learning rate {of_its_own}")
    parser.add_argument("--dropout", type=float, help=of_its_own[1:-1])
    parser.add_argument("--averaged", type=int, default=5, help="last epochs whose weights are averaged (default: 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--resume", action="store_true", help="continue after the last complete epoch in --work")
    values = parser.parse_args(arguments)
    chosen = ARCHITECTURES[values.architecture]
    own = {name: getattr(values, name) for name in ("updates", "peak", "dropout")}
    own = {name: getattr(chosen, name) if value is None else value for name, value in own.items()}
    return Options(
        data=values.data, out=values.out, work=values.work or values.out / "work", architecture=chosen,
        tokenizer=values.tokenizer, seed=values.seed, resume=values.resume, threads=values.threads,
        averaged=values.averaged, **own,
    )


def main() -> None:
    """Train to the last update, then average and score."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    run = Run(options, prepare_tokenizer(options))
    if options.resume:
        run.restore()
    log.info("%d parameters, %d pairs", sum(p.numel() for p in run.model.parameters()), len(run.train))
    while run.update < options.updates:
        run.epoch()
    finish(run)


if __name__ == "__main__":
    main()
