"""Stop texts compared with transformers' ``stop_strings``.

    PYTHONPATH=bench .venv/bin/python -m peers.stop_parity decode BUNDLE DATA OUT.json [--sentences 200]
    PYTHONPATH=bench .venv-peers/bin/python -m peers.stop_parity transformers OUT.json CHECKPOINT

Greedy; the stop texts of a sentence are a piece of what the model says of it, cut at random and often through tokens,
and a piece of what it says of another. transformers stops, but does not cut its text: its ids are compared, and our
text with its own up to the text that ends first. It finds stop texts in the names of special tokens, too, such as "s"
in "<s>", and counts a forced first token in its limit: such texts are left out, and the limit allows for that.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

LONGEST = 40


def decode(options: argparse.Namespace) -> None:
    """Write our answers, unary and streamed."""
    from multi30k import sentences
    from seqserve_server.in_process import InProcess
    from seqserve_server.local import LocalModel

    model, rng = InProcess(LocalModel.open(options.bundle, threads=1)), random.Random(0)
    texts = sentences(options.data, "en", "test_2016_flickr")[: options.sentences]
    plain: dict[str, Any] = {"beam_size": 1, "max_new_tokens": LONGEST, "min_new_tokens": 0}
    said = [answer.hypotheses[0].text for answer in model.generate("text", texts, **plain)]
    cases = []
    for text, own in zip(texts, said, strict=True):
        stops = [stop for stop in (_piece(own, rng), _piece(rng.choice(said), rng)) if stop]
        (answer,) = model.generate("text", [text], stop=stops, **plain)
        streamed = "".join(chunk.text for chunk in model.stream("text", text, stop=stops, **plain))
        cases.append({
            "source": text, "stop": stops, "ids": answer.hypotheses[0].token_ids, "text": answer.hypotheses[0].text,
            "streamed": streamed, "reason": answer.finish_reason,
        })
    options.out.write_text(json.dumps(cases, ensure_ascii=False), encoding="utf-8")
    stopped = sum(case["reason"] == "stop" for case in cases)
    print(f"{len(cases)} sentences, {stopped} stopped; "
          f"streams that differ from their answers: {sum(case['streamed'] != case['text'] for case in cases)}")


def _piece(text: str, rng: random.Random) -> str:
    begin = rng.randrange(max(len(text), 1))
    return text[begin : begin + rng.randrange(1, 9)].strip()


def transformers(options: argparse.Namespace) -> None:
    """Compare with transformers' answers to the same."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(options.checkpoint).eval()
    cases = json.loads(options.out.read_text(encoding="utf-8"))
    special = "".join(tokenizer.all_special_tokens)
    kept = [case for case in cases if not any(stop in special for stop in case["stop"])]
    forced = model.generation_config.forced_bos_token_id is not None
    ids_differ = texts_differ = 0
    for case in kept:
        with torch.no_grad():
            found = model.generate(
                **tokenizer(case["source"], return_tensors="pt"), num_beams=1, do_sample=False, min_length=0,
                max_new_tokens=LONGEST + forced, stop_strings=case["stop"] or None, tokenizer=tokenizer,
            )[0].tolist()
        ids = [each for each in found if each not in tokenizer.all_special_ids]
        text = tokenizer.decode(found, skip_special_tokens=True)
        ids_differ += ids != [each for each in case["ids"] if each not in tokenizer.all_special_ids]
        texts_differ += _cut(text, case["stop"]) != case["text"]
        if ids != case["ids"] and options.show:
            print(case["stop"], "theirs", repr(text), "ours", repr(case["text"]), case["reason"])
    print(f"{len(kept)} of {len(cases)} sentences; other ids: {ids_differ}; other texts: {texts_differ}")


def _cut(text: str, stops: list[str]) -> str:
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)]
    return text


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    ours = commands.add_parser("decode")
    ours.add_argument("bundle", type=Path)
    ours.add_argument("data", type=Path)
    ours.add_argument("out", type=Path)
    ours.add_argument("--sentences", type=int, default=200)
    ours.set_defaults(run=decode)
    theirs = commands.add_parser("transformers")
    theirs.add_argument("out", type=Path)
    theirs.add_argument("checkpoint", type=Path)
    theirs.add_argument("--show", action="store_true")
    theirs.set_defaults(run=transformers)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
