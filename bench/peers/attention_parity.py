"""What is made of attention, and scores of given targets, compared with CTranslate2.

    PYTHONPATH=bench .venv/bin/python -m peers.attention_parity decode BUNDLE DATA OUT.json [--tokenizer BUNDLE]
    PYTHONPATH=bench .venv-peers/bin/python -m peers.attention_parity ctranslate2 OUT.json DIRECTORY

BUNDLE comes from DIRECTORY, whose alignment it then declares. Answers with alignments, coverage penalties and replaced
unknown tokens, and the scores of the data's own translations. CTranslate2 leaves the columns of special tokens that it
added to the source out of what it returns, though not out of what it reckons with; they are left out of ours too.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from peers.narrow_choices import ROUNDING, narrow_choices
from peers.search_parity import sources_of, vocabulary

TOLERANCE, ATTENTION_TOLERANCE, LONGEST = 1e-4, 1e-5, 48
KINDS: list[dict[str, Any]] = [
    *({"beam_size": beams, "num_hypotheses": beams, "length_penalty": 1.0} for beams in (1, 4)),
    *(
        {"beam_size": beams, "num_hypotheses": count, "length_penalty": penalty, "coverage_penalty": coverage}
        for beams, count, penalty, coverage in (
            (1, 1, 1.0, 0.2), (2, 2, 1.0, 0.2), (4, 4, 0.6, 1.0), (4, 4, 0.0, 0.5), (4, 1, 1.0, 2.0), (8, 8, 1.0, -0.3)
        )
    ),
    *({"beam_size": beams, "num_hypotheses": beams, "length_penalty": 1.0, "replace_unknowns": True}
      for beams in (1, 4)),
]
PREFIXED = [{**kind, "prefixed": True} for kind in KINDS if kind.get("coverage_penalty", 0) in (0, 0.2, 1.0)]


def decode(options: argparse.Namespace) -> None:
    """Write our answers and scores."""
    from multi30k import sentences
    from seqserve_server.in_process import InProcess
    from seqserve_server.local import LocalModel

    local, rng = LocalModel.open(options.bundle, threads=2), random.Random(0)
    answers, model = InProcess(local), local.description
    texts = sentences(options.data, "en")[: options.sentences]
    said = sentences(options.data, "de")[: options.sentences]
    framed = len(model.source_suffix)
    sources = sources_of(local, texts, options.tokenizer)
    targets = [ids[: len(ids) - framed] for ids in sources_of(local, said, options.tokenizer)]
    cases = []
    for place, source in enumerate(sources):
        for turn in range(options.turns):
            settings = dict([*KINDS, *PREFIXED][(place * options.turns + turn) % (len(KINDS) + len(PREFIXED))])
            given = dict(settings)
            if given.pop("prefixed", False):
                begun = targets[place] if rng.random() < 0.5 else rng.choice(targets)
                given["prefix"] = list(begun[: rng.randrange(1, 4)])
            with narrow_choices() as gaps:
                [answer] = answers.generate(
                    "token_ids", [source[: len(source) - framed]], max_new_tokens=LONGEST, min_new_tokens=0,
                    stopping="patience", patience=1.0, return_alignment=True, **given,
                )
            cases.append({
                "source": list(source), "settings": settings, "prefix": given.get("prefix", []),
                "gap": min(gaps, default=1.0),
                "hypotheses": [[each.tokens, each.score, each.alignment, each.token_ids] for each in answer.hypotheses],
            })
    pairs = [(("token_ids", ids[: len(ids) - framed]), ("token_ids", target))
             for ids, target in zip(sources, targets, strict=True)]
    scores = answers.score(pairs, length_penalty=0.0)
    scored = [
        {"source": list(ids), "target": list(target), "score": score.score, "log_probs": score.token_log_probs}
        for ids, target, score in zip(sources, targets, scores, strict=True)
    ]
    Path(options.out).write_text(json.dumps({"cases": cases, "pairs": scored}), encoding="utf-8")


class Peer:
    """CTranslate2, asked with ids."""

    def __init__(self, directory: Path) -> None:
        import ctranslate2

        self._translator = ctranslate2.Translator(
            str(directory), compute_type="float32", inter_threads=1, intra_threads=2
        )
        self._names = {side: vocabulary(directory, side) for side in ("source", "target")}
        added = json.loads((directory / "config.json").read_text())
        self.content = slice(added.get("add_source_bos", False), -1 if added.get("add_source_eos") else None)
        self.unknown = self._names["target"].index(added["unk_token"])

    def answers(self, case: dict[str, Any]) -> list[list[Any]]:
        """Tokens, score and attention of every hypothesis."""
        wanted, prefix = case["settings"], [self._names["target"][number] for number in case["prefix"]]
        result = self._translator.translate_batch(
            [self._source(case)], target_prefix=[prefix] if prefix else None, beam_size=wanted["beam_size"],
            num_hypotheses=wanted["num_hypotheses"], length_penalty=wanted["length_penalty"],
            coverage_penalty=wanted.get("coverage_penalty", 0.0), max_decoding_length=LONGEST + len(prefix),
            replace_unknowns=wanted.get("replace_unknowns", False), min_decoding_length=0, max_input_length=0,
            return_scores=True, return_attention=True,
        )[0]
        return [list(each) for each in zip(result.hypotheses, result.scores, result.attention, strict=True)]

    def log_probs(self, pair: dict[str, Any]) -> list[float]:
        """Of every token of the target, then of the end token."""
        target = [self._names["target"][number] for number in pair["target"]]
        found: list[float] = self._translator.score_batch([self._source(pair)], [target])[0].log_probs
        return found

    def _source(self, case: dict[str, Any]) -> list[str]:
        return [self._names["source"][number] for number in case["source"]][self.content]


def compare(options: argparse.Namespace) -> None:
    """Print a line for each set of options, and one for the scores."""
    content = json.loads(Path(options.answers).read_text(encoding="utf-8"))
    peer = Peer(options.directory)
    table: dict[str, dict[str, float]] = {}
    for case in content["cases"]:
        kind = ", ".join(f"{name} {value}" for name, value in case["settings"].items())
        line = table.setdefault(kind, dict.fromkeys(
            ("cases", "answers", "rows", "unknown", "ties", "different", "score error", "attention error"), 0.0
        ))
        _add(line, case, peer.answers(case), peer)
    largest, tokens = 0.0, 0
    for pair in content["pairs"]:
        theirs = peer.log_probs(pair)
        tokens += len(theirs)
        errors = [abs(one - other) for one, other in zip(pair["log_probs"], theirs, strict=True)]
        largest = max(largest, *errors, abs(pair["score"] - sum(theirs)) / len(theirs))
    for kind, line in table.items():
        print(f"{kind:100} " + "  ".join(f"{name} {value:g}" for name, value in line.items()))
    print(f"score_batch: {len(content['pairs'])} pairs, {tokens} tokens, largest error {largest:.1e}")
    sys.exit(largest > TOLERANCE or any(
        line["different"] or line["score error"] > TOLERANCE or line["attention error"] > ATTENTION_TOLERANCE
        for line in table.values()
    ))


def _add(line: dict[str, float], case: dict[str, Any], theirs: list[list[Any]], peer: Peer) -> None:
    """One case to its line."""
    ours = case["hypotheses"]
    line["cases"] += 1
    line["answers"] += len(ours)
    line["unknown"] += sum(peer.unknown in ids for *_, ids in ours)
    errors = [abs(one[1] - other[1]) for one, other in zip(ours, theirs, strict=False)]
    if [each[0] for each in ours] == [each[0] for each in theirs]:
        line["score error"] = max([line["score error"], *errors])
        for (_, _, rows, _), (_, _, given) in zip(ours, theirs, strict=True):
            line["rows"] += len(rows)
            line["attention error"] = max([
                line["attention error"],
                *(abs(one - other) for row, returned in zip(rows, given, strict=True)
                  for one, other in zip(row[peer.content], returned, strict=True)),
            ])
        return
    # Told apart no better than by rounding: which comes first, or which lived on at some step, is chance.
    tie = case["gap"] <= ROUNDING or (
        sorted(each[0] for each in ours) == sorted(each[0] for each in theirs) and max(errors) <= TOLERANCE
    )
    line["ties" if tie else "different"] += 1
    if not tie and line["different"] <= 2:
        print(f"DIFFERENT {case['settings']}, prefix {case['prefix']}\n  ours   {[each[:2] for each in ours][:4]}\n"
              f"  theirs {[each[:2] for each in theirs][:4]}")


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ours = commands.add_parser("decode")
    ours.add_argument("bundle", type=Path)
    ours.add_argument("data", type=Path)
    ours.add_argument("out", type=Path)
    ours.add_argument("--tokenizer", type=Path, metavar="BUNDLE", help="split texts as this bundle does")
    ours.add_argument("--sentences", type=int, default=300)
    ours.add_argument("--turns", type=int, default=2, help="sets of options for each sentence (%(default)s)")
    theirs = commands.add_parser("ctranslate2")
    theirs.add_argument("answers", type=Path)
    theirs.add_argument("directory", type=Path)
    options = parser.parse_args()
    if options.command == "decode":
        decode(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
