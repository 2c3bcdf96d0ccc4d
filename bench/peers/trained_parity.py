"""Bundles of trained directories compared with the models that they came from: ids, logits, greedy tokens, texts.

    PYTHONPATH=bench .venv/bin/python -m peers.trained_parity bundle BUNDLE DATA OUT.npz [--prepared] [--sentences 300]
    PYTHONPATH=bench:tests .venv/bin/python -m peers.trained_parity source OUT.npz DIRECTORY [--positions book]

The first reads test sentences with the bundle, all in one running batch, and keeps every step's logits; the second asks
the source: the book's model as tests/book_model.py has it, ``torch.nn.Transformer``, or transformers, whose directories
are read where it is installed (.venv-peers/bin/python). ``--prepared`` prepares texts as ``peers/word_models.py`` does.
"""

import argparse
import json
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multi30k import sentences

TOLERANCE, LIMIT = 1e-4, 60
Logits = NDArray[np.float32]


def by_bundle(options: argparse.Namespace) -> None:
    """Write what the bundle makes of the sentences."""
    from peers.book_words import prepared
    from seqserve_server.admission import frame_of
    from seqserve_server.in_process import InProcess
    from seqserve_server.inputs import read_source
    from seqserve_server.local import LocalModel

    local = LocalModel.open(options.bundle, threads=1)
    model = local.description
    frame, tokenizer = frame_of(None, None, model), local.served.tokenizer
    texts = sentences(options.data, "en", "test_2016_flickr")[: options.sentences]
    texts = [prepared(text) for text in texts] if options.prepared else texts
    limit = min(LIMIT, model.max_new_tokens)
    results = InProcess(local).generate("text", texts, beam_size=1, max_new_tokens=limit, min_new_tokens=None)
    rows, kept = [], []
    for text, result in zip(texts, results, strict=True):
        (answer,) = result.hypotheses
        ended = result.finish_reason == "eos" or model.forced_end
        tokens = [*answer.token_ids, *[model.eos_id] * ended]
        source = list(read_source("text", text, model, frame, tokenizer, "input"))
        kept.append(local.step_logits(source, tokens, frame.prompt))
        rows.append({"text": text, "source": source, "tokens": tokens, "answer": answer.text})
    facts = {"limit": limit, "end": model.eos_id, "prompt": list(frame.prompt), "rows": rows,
             "suppressed": list(model.provenance.get("suppressed_tokens", []))}
    np.savez(options.out, logits=np.concatenate(kept), facts=json.dumps(facts))
    lengths = [len(row["source"]) for row in rows]
    print(f"{len(rows)} sentences of {min(lengths)} to {max(lengths)} tokens, {sum(map(len, kept))} generated tokens")


class Origin(ABC):
    """A trained directory in its own library."""

    @abstractmethod
    def ids(self, text: str) -> list[int]:
        """The complete source."""

    @abstractmethod
    def logits(self, source: list[int], fed: list[int]) -> Logits:
        """[len(fed), vocabulary] after each token that the decoder is fed."""

    @abstractmethod
    def text(self, tokens: list[int]) -> str:
        """Of an answer."""

    def greedy(self, source: list[int], prompt: list[int], end: int, limit: int) -> list[int]:
        """The best token after everything so far, again and again; the end token is among them."""
        found: list[int] = []
        while len(found) < limit and (not found or found[-1] != end):
            found.append(int(self.logits(source, [*prompt, *found])[-1].argmax()))
        return found


class Words(Origin):
    """A model of words: the book's or PyTorch's, with the vocabularies beside it."""

    def __init__(self, directory: Path, positions: str | None) -> None:
        from safetensors.torch import load_file

        from book_model import BookModel
        from translator import Translator

        self.settings = json.loads((directory / "config.json").read_text())
        self.words, self.target = (
            json.loads((directory / f"{side}_vocab.json").read_text(encoding="utf-8")) for side in ("source", "target")
        )
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.prefix = self.settings.get("source_prefix", [])
        self.first_only = positions == "book"
        tensors, sizes = load_file(directory / "model.safetensors"), (len(self.words), len(self.target))
        self.model: BookModel | Translator
        if "format" in self.settings:
            width = tensors["source.weight"].shape[1]
            self.model = Translator(
                width=width, heads=self.settings["heads"], entries=sizes, rows=self.settings["max_length"],
                inner=tensors["transformer.encoder.layers.0.linear1.weight"].shape[0],
                layers=(layers_of(tensors, "encoder"), layers_of(tensors, "decoder")),
            )
        else:
            self.model = BookModel(
                *sizes, width=self.settings["num_hiddens"], inner=self.settings["ffn_num_hiddens"],
                heads=self.settings["num_heads"], blocks=self.settings["num_blks"],
            )
        self.model.load_state_dict(tensors)
        self.model.eval()

    def ids(self, text: str) -> list[int]:
        """As ``peers.book_words`` splits and looks up."""
        words = [self.numbers.get(word, self.numbers["<unk>"]) for word in text.split(" ") if word]
        return [*self.prefix, *words, self.numbers["<eos>"]]

    @torch.no_grad()
    def logits(self, source: list[int], fed: list[int]) -> Logits:
        """The whole prefix anew."""
        given: list[Any] = [source, fed, *([[0] * len(fed)] if self.first_only else [])]
        result: Logits = self.model(*given).numpy()
        return result

    def text(self, tokens: list[int]) -> str:
        """Words joined with spaces, unknown ones shown."""
        hidden = {"<pad>", "<bos>", "<eos>"}
        return " ".join(word for word in (self.target[token] for token in tokens) if word not in hidden)


def layers_of(tensors: dict[str, Any], side: str) -> int:
    """How many PyTorch's stack has."""
    start = f"transformer.{side}.layers."
    return len({name.removeprefix(start).split(".")[0] for name in tensors if name.startswith(start)})


class Hub(Origin):
    """A directory of transformers."""

    def __init__(self, directory: Path) -> None:
        import transformers

        self.model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        self.model.generation_config.max_length = None  # the limit of a call would be a second one

    def ids(self, text: str) -> list[int]:
        """By its tokenizer."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    @torch.no_grad()
    def logits(self, source: list[int], fed: list[int]) -> Logits:
        """The whole prefix anew."""
        result = self.model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([fed])).logits[0]
        values: Logits = result.numpy()
        return values

    def text(self, tokens: list[int]) -> str:
        """By its tokenizer."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    @torch.no_grad()
    def greedy(self, source: list[int], prompt: list[int], end: int, limit: int) -> list[int]:
        """``generate``."""
        row = self.model.generate(
            input_ids=torch.tensor([source]), attention_mask=torch.ones(1, len(source), dtype=torch.int64), num_beams=1,
            do_sample=False, max_new_tokens=limit + len(prompt) - 1, eos_token_id=end,
        )[0].tolist()
        tokens: list[int] = row[len(prompt) :]
        return tokens


def by_source(options: argparse.Namespace) -> None:
    """Compare; 1 when more than ties differ."""
    kept = np.load(options.answers)
    facts, logits = json.loads(str(kept["facts"])), kept["logits"]
    config = json.loads((options.directory / "config.json").read_text())
    origin: Origin = Hub(options.directory) if "model_type" in config else Words(options.directory, options.positions)
    allowed = np.ones(logits.shape[1], dtype=bool)
    allowed[facts["suppressed"]] = False  # folded into the bundle's logits, and outside the source's
    wrong_ids, wrong_texts, different, ties, largest, first = 0, 0, 0, 0, 0.0, 0
    for row in facts["rows"]:
        source, tokens = row["source"], row["tokens"]
        mine = logits[first : first + len(tokens)][:, allowed]
        first += len(tokens)
        theirs = origin.logits(source, [*facts["prompt"], *tokens[:-1]])[len(facts["prompt"]) - 1 :][:, allowed]
        largest = max(largest, float(np.abs(mine - theirs).max()))
        wrong_ids += origin.ids(row["text"]) != source
        wrong_texts += origin.text(tokens) != row["answer"]
        decoded = origin.greedy(source, facts["prompt"], facts["end"], facts["limit"])
        if decoded != tokens:
            place = next((i for i, (a, b) in enumerate(zip(decoded, tokens, strict=False)) if a != b), 0)
            best = np.sort(theirs[place])[-2:]
            tie = best[1] - best[0] <= TOLERANCE
            ties, different = ties + tie, different + (not tie)
            print(f"{'TIE' if tie else 'DIFFERENT'} {row['text']!r} at {place}: gap {best[1] - best[0]:.1e}")
    print(
        f"{len(facts['rows'])} sentences: source ids that differ {wrong_ids}, largest logits error {largest:.1e} over "
        f"{len(logits)} tokens, greedy rows that differ {different}, ties {ties}, texts that differ {wrong_texts}"
    )
    sys.exit(bool(wrong_ids or wrong_texts or different or largest > TOLERANCE))


def main() -> None:
    """Either half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    halves = parser.add_subparsers(required=True)
    bundle = halves.add_parser("bundle")
    bundle.add_argument("bundle", type=Path)
    bundle.add_argument("data", type=Path)
    bundle.add_argument("out", type=Path)
    bundle.add_argument("--sentences", type=int, default=300)
    bundle.add_argument("--prepared", action="store_true", help="lower-case, spaces before punctuation")
    bundle.set_defaults(run=by_bundle)
    source = halves.add_parser("source")
    source.add_argument("answers", type=Path)
    source.add_argument("directory", type=Path)
    source.add_argument("--positions", choices=["true", "book"], default="true", help="of the book's generated tokens")
    source.set_defaults(run=by_source)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
