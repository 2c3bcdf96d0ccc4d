"""Beam search through the batch, compared with transformers' ``generate`` and CTranslate2's ``translate_batch``.

    PYTHONPATH=bench .venv/bin/python -m peers.search_parity decode BUNDLE DATA OUT.json [--sentences 300]
    PYTHONPATH=bench .venv-peers/bin/python -m peers.search_parity transformers OUT.json DIRECTORY
    PYTHONPATH=bench .venv-peers/bin/python -m peers.search_parity ctranslate2 OUT.json DIRECTORY

The first decodes every sentence with every set of options, all of them in one running batch, and once more each alone,
which must give the same bits; the others decode the same ids with the same options from the checkpoint, and compare.
With ``--rules repetition`` the options are those that hold down tokens: penalties, n-grams, and tokens and pairs that
the model likes.
"""

import argparse
import itertools
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from peers.narrow_choices import ROUNDING, narrow_choices

BEAMS, TOLERANCE, LONGEST = (1, 2, 4, 8), 1e-4, 48
RULES = {
    "transformers": [
        {"stopping": stopping, "length_penalty": penalty}
        for stopping, penalty in (("heuristic", 1.0), ("heuristic", 0.6), ("full", 1.0), ("exhaustive", 2.0))
    ],
    "ctranslate2": [
        {"stopping": "patience", "length_penalty": penalty, "patience": patience}
        for penalty, patience in ((1.0, 1.0), (0.0, 1.0), (0.6, 2.0))
    ],
}
HELD_DOWN: list[dict[str, Any]] = [  # a length that the model would not choose has it repeat itself
    {"repetition_penalty": 1.3}, {"repetition_penalty": 0.9}, {"no_repeat_ngram_size": 2}, {"suppress_tokens": "liked"},
    {"repetition_penalty": 1.2, "min_new_tokens": 30}, {"no_repeat_ngram_size": 1, "min_new_tokens": 20},
    {"no_repeat_ngram_size": 3, "min_new_tokens": 30},
    {"repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "suppress_tokens": "liked", "min_new_tokens": 20},
]
REPETITION = {
    "transformers": [{"stopping": "heuristic", "length_penalty": 1.0, **rule} for rule in HELD_DOWN],
    "ctranslate2": [{"stopping": "patience", "length_penalty": 1.0, "patience": 1.0, **rule} for rule in HELD_DOWN],
}
EARLY_STOPPING = {"heuristic": False, "full": True, "exhaustive": "never"}


def settings_of(number: int, kinds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Options of the sentence with this number: every kind in turn."""
    turns = [
        {"peer": peer, "beam_size": beams, "num_hypotheses": beams, **rule}
        for peer, rules in kinds.items() for rule in rules for beams in BEAMS
    ]
    return dict(turns[number % len(turns)])


def liked(local: Any, sources: list[Any]) -> list[list[int]]:
    """The tokens and pairs of tokens that a greedy search finds most often."""
    answers = [answer.token_ids for answer in local.generate(sources)]
    tokens = Counter(token for answer in answers for token in answer)
    pairs = Counter(pair for answer in answers for pair in itertools.pairwise(answer))
    often = {token for token, _ in tokens.most_common(2)}
    left = [list(pair) for pair, _ in pairs.most_common(40) if not often & set(pair)]
    return [*([token] for token in sorted(often)), *left[:8]]


def sources_of(local: Any, texts: list[str], tokenizer: Path | None) -> list[tuple[int, ...]]:
    """Complete ids of texts, which the bundle ``tokenizer`` splits where the model itself takes tokens only."""
    from seqserve_server.admission import frame_of
    from seqserve_server.inputs import read_source
    from seqserve_server.local import LocalModel

    model, own = local.description, local.served.tokenizer
    contents: list[tuple[str, Any]] = [("text", text) for text in texts]
    if tokenizer is not None:
        words: Any = LocalModel.open(tokenizer, threads=1).served.tokenizer
        contents = [("tokens", words.source_tokens(words.encode(text))) for text in texts]
    return [read_source(kind, content, model, frame_of(None, None, model), own, "input") for kind, content in contents]


def decode(options: argparse.Namespace) -> None:
    """Write our answers."""
    from multi30k import sentences
    from seqserve_server.admission import frame_of
    from seqserve_server.local import LocalModel
    from seqserve_server.search_options import Options, most_beams, read_stopping, resolve_search

    local = LocalModel.open(options.bundle, threads=2)
    model, rng = local.description, random.Random(0)
    frame = frame_of(None, None, model)
    texts = sentences(options.data, "en", "test_2016_flickr")[: options.sentences]
    kinds = RULES if options.rules == "search" else REPETITION
    kinds = {peer: kinds[peer] for peer in kinds if options.only in (None, peer)}
    cases = []
    for place, source in enumerate(sources_of(local, texts, options.tokenizer)):
        for turn in range(options.turns):
            cases.append((source, settings_of(place * options.turns + turn, kinds)))
    searches, held_down = [], liked(local, [source for source, _ in cases[::4]])
    for _, settings in cases:
        if "suppress_tokens" in settings:
            settings["suppress_tokens"] = held_down
        given: dict[str, Any] = {name: value for name, value in settings.items() if name != "peer"}
        given |= {"stopping": read_stopping(settings["stopping"]), "min_new_tokens": settings.get("min_new_tokens", 0)}
        asked = Options(max_new_tokens=min(LONGEST, model.max_new_tokens), **given)
        searches.append(resolve_search(asked, model, most_beams(local.served.limits.max_rows)))
    sources = [source for source, _ in cases]
    arrivals = [rng.randrange(len(cases) * 2) for _ in cases]
    together = local.generate(sources, [frame.prompt] * len(cases), searches=searches, arrivals=arrivals)
    different, narrowest = 0, []
    for source, search, mixed in zip(sources, searches, together, strict=True):
        with narrow_choices() as gaps:
            alone = local.generate([source], [frame.prompt], searches=[search])[0]
        narrowest.append(min(gaps, default=1.0))
        different += alone.hypotheses != mixed.hypotheses
    print(f"{len(cases)} cases in one batch; with other bits alone: {different}")
    rows = [
        {"source": list(source), "prompt": list(frame.prompt), "settings": settings, "reason": answer.finish_reason,
         "gap": gap,
         "hypotheses": [[each.token_ids, each.score] for each in answer.hypotheses]}
        for (source, settings), answer, gap in zip(cases, together, narrowest, strict=True)
    ]
    description = {"eos_id": model.eos_id, "pad_id": model.pad_id, "longest": min(LONGEST, model.max_new_tokens)}
    Path(options.out).write_text(json.dumps({"model": description, "cases": rows}), encoding="utf-8")
    sys.exit(different > 0)


def by_transformers(directory: Path, facts: dict[str, Any], cases: list[dict[str, Any]]) -> list[list[Any]]:
    """Their hypotheses: ids without special tokens around, and scores."""
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    model.generation_config.max_length = None  # ``generate`` warns at every call of limits that are set twice
    never = model.generation_config.bad_words_ids or []  # what a call gives replaces these, even None does
    found = []
    for case in cases:
        wanted, prompt = case["settings"], case["prompt"]
        held_down = wanted.get("suppress_tokens", [])
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor([case["source"]]),
                attention_mask=torch.ones(1, len(case["source"]), dtype=torch.int64),
                decoder_start_token_id=prompt[0], forced_bos_token_id=prompt[1] if len(prompt) > 1 else None,
                max_new_tokens=facts["longest"] + len(prompt) - 1,
                min_new_tokens=wanted.get("min_new_tokens", 1 - len(prompt)) + len(prompt) - 1,
                do_sample=False, num_beams=wanted["beam_size"], num_return_sequences=wanted["num_hypotheses"],
                length_penalty=wanted["length_penalty"], early_stopping=EARLY_STOPPING[wanted["stopping"]],
                return_dict_in_generate=True, output_scores=True, output_logits=True,
                repetition_penalty=wanted.get("repetition_penalty", 1.0),
                no_repeat_ngram_size=wanted.get("no_repeat_ngram_size", 0),
                suppress_tokens=[ids[0] for ids in held_down if len(ids) == 1] or None,
                bad_words_ids=[*never, *(ids for ids in held_down if len(ids) > 1)] or None,
            )
        rows = [row[len(prompt) :] for row in output.sequences.tolist()]
        rows = [row[: row.index(facts["eos_id"])] if facts["eos_id"] in row else row for row in rows]
        if wanted["beam_size"] > 1:
            scores = output.sequences_scores.tolist()
        else:  # the model's own log-probabilities, before what held tokens down
            chosen = output.sequences[0, 1:].tolist()[-len(output.logits) :]
            steps = zip(output.logits, chosen, strict=True)
            out = torch.tensor([ids[0] for ids in never if len(ids) == 1], dtype=torch.int64)  # as bundles do
            own = [torch.log_softmax(step[0].index_fill(0, out, -torch.inf), -1)[token].item() for step, token in steps]
            limit = facts["longest"] + len(prompt) - 1
            if model.generation_config.forced_eos_token_id is not None and len(own) == limit:
                own[-1] = 0.0  # there was no choice
            scores = [sum(own[len(prompt) - 1 :]) / len(own) ** wanted["length_penalty"]]  # a forced token counts in it
        rows = [[token for token in row if token != facts["pad_id"]] for row in rows]
        found.append([list(pair) for pair in zip(rows, scores, strict=True)])
    return found


def by_ctranslate2(directory: Path, facts: dict[str, Any], cases: list[dict[str, Any]]) -> list[list[Any]]:
    """Theirs, decoded from token names and turned into ids again."""
    import ctranslate2

    translator = ctranslate2.Translator(str(directory), compute_type="float32", inter_threads=1, intra_threads=2)
    names = {side: vocabulary(directory, side) for side in ("source", "target")}
    numbers = {name: number for number, name in enumerate(names["target"])}
    added = json.loads((directory / "config.json").read_text())
    found = []
    for case in cases:
        wanted, tokens = case["settings"], [names["source"][number] for number in case["source"]]
        tokens = tokens[added.get("add_source_bos", False) : -1 if added.get("add_source_eos") else None]
        fed = case["prompt"] if added.get("decoder_start_token") is None else case["prompt"][1:]
        prefix = [names["target"][number] for number in fed]
        result = translator.translate_batch(
            [tokens], target_prefix=[prefix] if prefix else None, beam_size=wanted["beam_size"],
            num_hypotheses=wanted["num_hypotheses"], length_penalty=wanted["length_penalty"],
            patience=wanted["patience"], max_decoding_length=facts["longest"],
            min_decoding_length=wanted.get("min_new_tokens", 0), return_scores=True, max_input_length=0,
            repetition_penalty=wanted.get("repetition_penalty", 1.0),
            no_repeat_ngram_size=wanted.get("no_repeat_ngram_size", 0),
            suppress_sequences=[[names["target"][token] for token in ids] for ids in wanted.get("suppress_tokens", [])],
        )[0]
        rows = [[numbers[token] for token in row[len(case["prompt"]) - 1 :]] for row in result.hypotheses]
        found.append([list(pair) for pair in zip(rows, result.scores, strict=True)])
    return found


def vocabulary(directory: Path, side: str) -> list[str]:
    """Token names in the order of their ids."""
    for name in (f"{side}_vocabulary.json", "shared_vocabulary.json"):
        if (directory / name).is_file():
            names: list[str] = json.loads((directory / name).read_text(encoding="utf-8"))
            return names
    raise SystemExit(f"search_parity: {directory} has no vocabulary as JSON")


def kind_of(settings: dict[str, Any]) -> str:
    """The name of a set of options."""
    names = {"repetition_penalty": "rep", "no_repeat_ngram_size": "n-gram", "min_new_tokens": "min"}
    held_down = [f", {short} {settings[name]:g}" for name, short in names.items() if name in settings]
    held_down += [", held down"] * ("suppress_tokens" in settings)
    return (f"{settings['stopping']}, penalty {settings['length_penalty']:g}, beams {settings['beam_size']}"
            f"{''.join(held_down)}")


def compare(options: argparse.Namespace) -> None:
    """Print a line for each set of options."""
    content = json.loads(Path(options.answers).read_text(encoding="utf-8"))
    cases = [case for case in content["cases"] if case["settings"]["peer"] == options.peer]
    theirs = (by_transformers if options.peer == "transformers" else by_ctranslate2)(
        options.directory, content["model"], cases
    )
    counts: Counter[tuple[str, str]] = Counter()
    largest: dict[str, float] = {}
    for case, answers in zip(cases, theirs, strict=True):
        settings = case["settings"]
        kind = kind_of(settings)
        ours = case["hypotheses"]
        counts[kind, "cases"] += 1
        counts[kind, "hypotheses"] += len(ours)
        same = [ids for ids, _ in ours] == [ids for ids, _ in answers]
        errors = [abs(one - other) for (_, one), (_, other) in zip(ours, answers, strict=False) if other is not None]
        if same:
            largest[kind] = max([largest.get(kind, 0.0), *errors])
            continue
        # Told apart no better than by rounding: which comes first, or which lived on at some step, is chance.
        tie = case["gap"] <= ROUNDING or (len(ours) == len(answers) and bool(errors) and max(errors) <= TOLERANCE)
        counts[kind, "ties" if tie else "different"] += 1
        if not tie and counts[kind, "different"] <= 2:
            print(f"DIFFERENT {kind}\n  ours   {ours[:3]}\n  theirs {answers[:3]}")
    print(f"{'options':60} {'cases':>6} {'hypotheses':>10} {'ties':>5} {'different':>9} {'score error':>11}")
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:60} {counts[kind, 'cases']:6} {counts[kind, 'hypotheses']:10} {counts[kind, 'ties']:5} "
              f"{counts[kind, 'different']:9} {largest.get(kind, 0.0):11.1e}")
    wrong = sum(count for (_, name), count in counts.items() if name == "different")
    sys.exit(wrong > 0 or max(largest.values(), default=0.0) > TOLERANCE)


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="peer", required=True)
    ours = commands.add_parser("decode")
    ours.add_argument("bundle", type=Path)
    ours.add_argument("data", type=Path)
    ours.add_argument("out", type=Path)
    ours.add_argument("--tokenizer", type=Path, metavar="BUNDLE", help="split texts as this bundle does")
    ours.add_argument("--sentences", type=int, default=300)
    ours.add_argument("--rules", choices=("search", "repetition"), default="search")
    ours.add_argument("--only", choices=tuple(RULES), help="the cases for this library")
    ours.add_argument("--turns", type=int, default=4, help="sets of options for each sentence (%(default)s)")
    for peer in RULES:
        theirs = commands.add_parser(peer)
        theirs.add_argument("answers", type=Path)
        theirs.add_argument("directory", type=Path)
    options = parser.parse_args()
    if options.peer == "decode":
        decode(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
