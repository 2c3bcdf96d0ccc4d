"""Does a sentence's company change its translation? Counts sources whose tokens or score bits differ.

Every source is decoded alone, then again in random mixes with staggered arrivals. The same is then done with a setting
broken on purpose, which has to find differences: else the test could not see what it looks for.
"""

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort

from multi30k import sentences, show_progress
from seqserve.bundle import DECODER_FILE, ENCODER_FILE, read_model
from seqserve_server import kernels
from seqserve_server.admission import complete_source
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished

Sources = list[list[int]]
LAST_AXIS = "last"  # in the definition of RowQuantize: along what the largest activation is looked for
STEPS = (1, 60, 400)  # arrivals are spread over so many steps: all at once, a full batch for long, a few rows at a time


@dataclass(frozen=True)
class Findings:
    """How many decodings were compared, and how many of them differed from decoding alone, and in what."""

    compared: int
    tokens: int
    bits: int


def make_sources(model: LocalModel, folder: Path, count: int, single: int) -> Sources:
    """Complete sources: ``count`` sentences and ``single`` of one token. Random ids where there is no tokenizer."""
    texts, description = sentences(folder, "en")[:count], model.description
    tokenizer, generator = model.served.tokenizer, random.Random(0)
    if tokenizer is not None:
        contents = [tokenizer.encode(text) for text in texts]
    else:
        contents = [generator.choices(range(description.source_vocab_size), k=len(text.split())) for text in texts]
    frame = description.framing.example()
    sources = [list(complete_source(content, description, frame, "source")) for content in contents]
    # A source of one token does not exist for families that add an end token; the graphs must bear it all the same.
    return sources + [[token] for token in generator.choices(range(description.source_vocab_size), k=single)]


def compare(model: LocalModel, sources: Sources, mixes: int, what: str) -> Findings:
    """Decode every source alone, then ``mixes`` times all of them in each kind of mix."""
    limit = min(64, model.description.max_new_tokens)
    alone: list[Finished] = []
    for source in sources:
        alone += model.generate([source], max_new_tokens=limit)
        show_progress(f"{what}, alone", len(alone), len(sources))
    compared = tokens = bits = 0
    kinds = [steps for _ in range(mixes) for steps in STEPS]
    for number, steps in enumerate(kinds):
        generator = random.Random(number)
        order = generator.sample(range(len(sources)), len(sources))
        results = model.generate(
            [sources[place] for place in order], max_new_tokens=limit,
            arrivals=[generator.randrange(steps) for _ in order],
        )
        for place, result in zip(order, results, strict=True):
            compared += 1
            tokens += result.token_ids != alone[place].token_ids
            bits += score_bits(result) != score_bits(alone[place])
        show_progress(f"{what}, mixed", number + 1, len(kinds))
    return Findings(compared, tokens, bits)


def score_bits(result: Finished) -> bytes:
    """The score and every token's log-probability, as they lie in memory."""
    return np.array([result.score, *result.log_probs]).tobytes()


@contextlib.contextmanager
def open_broken(bundle: Path, threads: int) -> Iterator[LocalModel]:
    """The same bundle in a state in which rows do depend on one another; a comparison that is any good finds it."""
    with tempfile.TemporaryDirectory() as name:
        broken = Path(name) / "bundle"
        shutil.copytree(bundle, broken)
        if read_model(bundle).precision == "int8":
            share_scales(broken)
            with mock.patch.object(kernels, "compiled_library", return_value=None):  # so that definitions count
                yield LocalModel.open(broken, threads=threads, verify=False)
        else:
            yield open_unpacked(broken, threads)


def share_scales(bundle: Path) -> None:
    """Give activations one scale over the whole batch, as the runtime's own dynamic quantisation would."""
    for name in (ENCODER_FILE, DECODER_FILE):
        graph = onnx.load(bundle / name, load_external_data=False)
        (rounding,) = (function for function in graph.functions if function.name == "RowQuantize")
        (axes,) = (node for node in rounding.node if list(node.output) == [LAST_AXIS])
        axes.attribute[0].ints[:] = [0, 1]
        onnx.save(graph, bundle / name)


def open_unpacked(bundle: Path, threads: int) -> LocalModel:
    """On a runtime that does not prepack weights: a row alone then takes other kernels than a batch."""
    plain = ort.InferenceSession

    def opened(path: str, options: ort.SessionOptions, **settings: Any) -> ort.InferenceSession:
        options.add_session_config_entry("session.disable_prepacking", "1")
        return plain(path, options, **settings)

    with mock.patch.object(ort, "InferenceSession", opened):
        return LocalModel.open(bundle, threads=threads, verify=False)


def report(sources: Sequence[Sequence[int]], right: Findings, wrong: Findings) -> str:
    """Three lines."""
    lengths = [len(source) for source in sources]
    lines = [f"{len(lengths)} sources of {min(lengths)} to {max(lengths)} tokens; {lengths.count(1)} have 1 token"]
    for name, found in (("as served", right), ("broken on purpose", wrong)):
        lines.append(
            f"{name}: {found.compared} decodings in mixes, tokens differ in {found.tokens}, score bits in {found.bits}"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the findings; 0 when nothing differs as served, and something does when broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="folder with test_2016_flickr.en or .en.gz")
    parser.add_argument("--count", type=int, default=500, help="sentences")
    parser.add_argument("--single", type=int, default=20, help="sources of one token")
    parser.add_argument("--mixes", type=int, default=2, help="random mixes of each kind")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    with LocalModel.open(given.bundle, threads=given.threads) as model:
        sources = make_sources(model, given.data, given.count, given.single)
        right = compare(model, sources, given.mixes, "as served")
    with open_broken(given.bundle, given.threads) as model:
        wrong = compare(model, sources, 1, "broken")
    print(report(sources, right, wrong))
    return 0 if right.tokens == right.bits == 0 and wrong.bits > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
