"""Prefixes, forced and favoured, and alternatives behind them, compared with transformers and CTranslate2.

    PYTHONPATH=bench .venv/bin/python -m peers.prefix_parity decode BUNDLE DATA OUT.json [--sentences 300]
    PYTHONPATH=bench .venv-peers/bin/python -m peers.prefix_parity transformers OUT.json DIRECTORY
    PYTHONPATH=bench .venv-peers/bin/python -m peers.prefix_parity ctranslate2 OUT.json DIRECTORY

A prefix is the beginning of what the model would say, or of what it would say of another sentence. All cases are
decoded in one running batch, and once more each alone, which must give the same bits. CTranslate2 counts a forced
prefix in its limit of tokens, which is set to allow for that.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from peers.narrow_choices import ROUNDING, narrow_choices
from peers.search_parity import sources_of, vocabulary

# CTranslate2's log-probability of an alternative's first token is off by one amount for all alternatives of a source,
# up to 2.4e-3 from what its own ``score_batch`` says: the offset. Errors are what scores differ by beyond it.
TOLERANCE, LONGEST = 1e-4, 40
KINDS: dict[str, list[dict[str, Any]]] = {
    "transformers": [
        {"beam_size": beams, "length_penalty": penalty, "stopping": "heuristic"}
        for beams, penalty in ((1, 1.0), (2, 1.0), (4, 0.6))
    ],
    "ctranslate2": [
        *({"beam_size": beams, "length_penalty": penalty} for beams, penalty in ((1, 1.0), (2, 0.0), (4, 1.0))),
        *(
            {"beam_size": beams, "length_penalty": penalty, "prefix_bias": bias}
            for beams, penalty, bias in ((1, 0.0, 0.3), (2, 1.0, 0.5), (4, 0.6, 0.9), (3, 0.0, 0.05))
        ),
        *(
            {"beam_size": beams, "length_penalty": penalty, "return_alternatives": True, "num_hypotheses": count}
            for beams, penalty, count in ((1, 0.0, 5), (1, 1.0, 3), (2, 1.0, 4), (3, 0.6, 8))
        ),
        {"beam_size": 1, "length_penalty": 1.0, "return_alternatives": True, "num_hypotheses": 6,
         "min_alternative_probability": 0.05},
    ],
}


def decode(options: argparse.Namespace) -> None:
    """Write our answers."""
    from multi30k import sentences
    from seqserve_server.admission import resolve_options
    from seqserve_server.local import LocalModel
    from seqserve_server.search_options import Options, most_beams, read_stopping

    local, rng = LocalModel.open(options.bundle, threads=2), random.Random(0)
    model = local.description
    frame = model.framing.frame()
    texts = sentences(options.data, "en", "test_2016_flickr")[: options.sentences]
    sources = sources_of(local, texts, options.tokenizer)
    said = [answer.token_ids for answer in local.generate(sources)]
    turns = [{"peer": peer, **kind} for peer, kinds in KINDS.items() if options.only in (None, peer) for kind in kinds]
    cases = []
    for place, source in enumerate(sources):
        settings = dict(turns[place % len(turns)])
        begun = said[place] if rng.random() < 0.5 else rng.choice(said)
        prefix = tuple(begun[: rng.randrange(5)])
        if "return_alternatives" not in settings and not prefix:
            prefix = tuple(begun[:2]) or (said[0][0],)
        given: dict[str, Any] = {name: value for name, value in settings.items() if name != "peer"}
        given["stopping"] = read_stopping(settings.get("stopping", "patience"))
        resolved = resolve_options(
            Options(max_new_tokens=LONGEST, min_new_tokens=0, prefix=prefix, **given), model,
            most_beams(local.served.limits.max_rows),
        )
        cases.append((source, settings, prefix, resolved))
    prompts, searches = [case[3].prompt for case in cases], [case[3].search for case in cases]
    arrivals = [rng.randrange(len(cases)) for _ in cases]
    together = local.generate(sources, prompts, searches=searches, arrivals=arrivals)
    different, narrowest = 0, []
    for source, prompt, search, mixed in zip(sources, prompts, searches, together, strict=True):
        with narrow_choices() as gaps:
            different += local.generate([source], [prompt], searches=[search])[0].hypotheses != mixed.hypotheses
        narrowest.append(min(gaps, default=1.0))
    print(f"{len(cases)} cases in one batch; with other bits alone: {different}")
    rows = [
        {"source": list(source), "prompt": list(frame.prompt), "prefix": list(prefix), "settings": settings,
         "gap": gap,
         "hypotheses": [
             [[*resolved.prefix, *each.token_ids], each.score] for each in answer.hypotheses
         ]}
        for (source, settings, prefix, resolved), answer, gap in zip(cases, together, narrowest, strict=True)
    ]
    Path(options.out).write_text(json.dumps({"eos_id": model.eos_id, "pad_id": model.pad_id, "cases": rows}))
    sys.exit(different > 0)


def by_transformers(directory: Path, facts: dict[str, Any], cases: list[dict[str, Any]]) -> list[list[Any]]:
    """Their answers: the prefix goes in as the decoder's first ids."""
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    model.generation_config.max_length = None
    found = []
    for case in cases:
        wanted, fed = case["settings"], [*case["prompt"], *case["prefix"]]
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor([case["source"]]), decoder_input_ids=torch.tensor([fed]),
                attention_mask=torch.ones(1, len(case["source"]), dtype=torch.int64), max_new_tokens=LONGEST,
                min_new_tokens=0, do_sample=False, num_beams=wanted["beam_size"], early_stopping=False,
                length_penalty=wanted["length_penalty"], return_dict_in_generate=True, output_scores=True,
            )
        row = output.sequences[0, len(case["prompt"]) :].tolist()
        row = [token for token in (row[: row.index(facts["eos_id"])] if facts["eos_id"] in row else row)
               if token != facts["pad_id"]]
        if wanted["beam_size"] > 1:
            score = output.sequences_scores[0].item()
        else:
            chosen = output.sequences[0, len(fed) :].tolist()
            own = [torch.log_softmax(step[0], -1)[token].item()
                   for step, token in zip(output.scores, chosen, strict=True)]
            score = sum(own) / len(own) ** wanted["length_penalty"]
        found.append([[row, score]])
    return found


def by_ctranslate2(directory: Path, facts: dict[str, Any], cases: list[dict[str, Any]]) -> list[list[Any]]:
    """Theirs, decoded from token names and turned into ids again."""
    import ctranslate2

    del facts
    translator = ctranslate2.Translator(str(directory), compute_type="float32", inter_threads=1, intra_threads=2)
    names = {side: vocabulary(directory, side) for side in ("source", "target")}
    numbers = {name: number for number, name in enumerate(names["target"])}
    added = json.loads((directory / "config.json").read_text())
    found = []
    for case in cases:
        wanted, tokens = case["settings"], [names["source"][number] for number in case["source"]]
        tokens = tokens[added.get("add_source_bos", False) : -1 if added.get("add_source_eos") else None]
        prefix = [names["target"][number] for number in case["prefix"]]
        bias = wanted.get("prefix_bias", 0.0)
        result = translator.translate_batch(
            [tokens], target_prefix=[prefix] if prefix else None, beam_size=wanted["beam_size"],
            num_hypotheses=wanted.get("num_hypotheses", 1), length_penalty=wanted["length_penalty"],
            max_decoding_length=LONGEST + (0 if bias else len(prefix)), min_decoding_length=0, return_scores=True,
            max_input_length=0, prefix_bias_beta=bias, return_alternatives=wanted.get("return_alternatives", False),
            min_alternative_expansion_prob=wanted.get("min_alternative_probability", 0.0),
        )[0]
        rows = [[numbers[token] for token in row] for row in result.hypotheses]
        found.append([list(pair) for pair in zip(rows, result.scores, strict=True)])
    return found


def compare(options: argparse.Namespace) -> None:
    """Print a line for each set of options."""
    content = json.loads(Path(options.answers).read_text(encoding="utf-8"))
    cases = [case for case in content["cases"] if case["settings"]["peer"] == options.peer]
    theirs = (by_transformers if options.peer == "transformers" else by_ctranslate2)(options.directory, content, cases)
    table: dict[str, dict[str, float]] = {}
    for case, answers in zip(cases, theirs, strict=True):
        kind = ", ".join(f"{name} {value}" for name, value in case["settings"].items() if name != "peer")
        line = table.setdefault(kind, {"cases": 0, "answers": 0, "ties": 0, "different": 0, "score error": 0.0})
        ours = case["hypotheses"]
        line["cases"] += 1
        line["answers"] += len(ours)
        if [ids for ids, _ in ours] == [ids for ids, _ in answers]:
            errors = [one - other for (_, one), (_, other) in zip(ours, answers, strict=True)]
            if "return_alternatives" in case["settings"]:
                line["offset"] = max(line.get("offset", 0.0), abs(errors[0]))
                errors = [error - errors[0] for error in errors]
            line["score error"] = max([line["score error"], *map(abs, errors)])
            continue
        if case["gap"] <= ROUNDING:  # which lived on at some step is chance
            line["ties"] += 1
            continue
        line["different"] += 1
        if line["different"] <= 2:
            print(f"DIFFERENT {kind}, prefix {case['prefix']}\n  ours   {ours[:4]}\n  theirs {answers[:4]}")
    for kind, line in table.items():
        print(f"{kind:110} " + "  ".join(f"{name} {value:g}" for name, value in line.items()))
    sys.exit(any(line["different"] or line["score error"] > TOLERANCE for line in table.values()))


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="peer", required=True)
    ours = commands.add_parser("decode")
    ours.add_argument("bundle", type=Path)
    ours.add_argument("data", type=Path)
    ours.add_argument("out", type=Path)
    ours.add_argument("--sentences", type=int, default=300)
    ours.add_argument("--tokenizer", type=Path, metavar="BUNDLE", help="split texts as this bundle does")
    ours.add_argument("--only", choices=tuple(KINDS), help="the cases for this library")
    for peer in KINDS:
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
