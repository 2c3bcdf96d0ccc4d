"""Compare BART, mBART, Pegasus and M2M100 (NLLB too) with transformers: frames, logits, ``generate`` token by token.

transformers is no dependency of this project; run this where it is installed:

    PYTHONPATH=bench:server:export:proto .venv-peers/bin/python bench/peers/hub_parity.py [CLASS ...]
    ... hub_parity.py --models var/hub --data DIR     trained directories too: text in, text out, ids of all of Multi30k
    ... hub_parity.py --write tests/data/hub          saves small models and what transformers computes with them
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from seqserve.framing import SOURCE_LANGUAGE, TARGET_LANGUAGE, Frame, Framing
from seqserve_export import reference
from seqserve_export.families import LoadedCheckpoint, choose_family

try:
    import transformers

    from peers.hub_random import CLASSES, LINES, VARIANTS, language_id, make_model
except ImportError as missing:
    sys.exit(f"hub_parity: {missing.name} is not installed here; run it with .venv-peers/bin/python")

SENTENCES, TOLERANCE = 64, 1e-4


@dataclass
class Result:
    """What one directory gave: largest logits error, decodings that differ (and by what gap), tokens compared."""

    error: float = 0.0
    frames: int = 0
    sentences: int = 0
    tokens: int = 0
    different: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """For people."""
        return (
            f"{name:34} frames {self.frames:3}   logits error {self.error:.1e}   sentences {self.sentences:5}   "
            f"that differ {len(self.different)}   tokens {self.tokens}"
        )


def framing_of(checkpoint: LoadedCheckpoint) -> Framing:
    """As the bundle's description has it; building that needs libraries that are not installed here."""
    return Framing(
        source_prefix=checkpoint.source_prefix, source_suffix=checkpoint.source_suffix,
        decoder_prompt=checkpoint.decoder_prompt, languages=checkpoint.languages,
        default_source_language=checkpoint.default_source_language,
        default_target_language=checkpoint.default_target_language,
    )


def pairs_of(checkpoint: LoadedCheckpoint) -> list[tuple[str | None, str | None]]:
    """Pairs of languages to try: the defaults if there are any, and a few others."""
    if not checkpoint.languages:
        return [(None, None)]
    codes = sorted(checkpoint.languages)
    words = framing_of(checkpoint).words
    some = [codes[0], codes[len(codes) // 2], codes[-1]]
    pairs: list[tuple[str | None, str | None]] = [
        (source if SOURCE_LANGUAGE in words else None, target if TARGET_LANGUAGE in words else None)
        for source, target in zip(some, [some[1], some[2], some[0]], strict=True)
    ]
    return pairs if checkpoint.default_target_language is None else [(None, None), *pairs]


def forced(tokenizer: Any, target: str | None) -> dict[str, int]:
    """How transformers is told the target language: mBART-25 by its start token, all others by the first one."""
    if target is None:
        return {}
    first = type(tokenizer).__name__ == "MBartTokenizer"
    return {"decoder_start_token_id" if first else "forced_bos_token_id": language_id(tokenizer, target)}


def named(tokenizer: Any, model: Any) -> str | None:
    """The target that the tokenizer names, which ``generate`` does not read; what the model forces comes first."""
    if model.generation_config.forced_bos_token_id is not None or type(tokenizer).__name__ == "MBartTokenizer":
        return None
    return getattr(tokenizer, "tgt_lang", None)


def sources_for(
    tokenizer: Any, checkpoint: LoadedCheckpoint, frame: Frame, source: str | None, count: int
) -> Iterator[list[int]]:
    """Complete sources: texts as the tokenizer makes them, which have to have our frame, then random content."""
    if source is not None:
        tokenizer.src_lang = source
    size = checkpoint.model.config.source_vocab_size
    special = {*frame.prefix, *frame.suffix, *frame.prompt, *checkpoint.languages.values(), *tokenizer.all_special_ids}
    usable = torch.tensor([token for token in range(size) if token not in special])
    for number in range(count):
        if number < len(LINES):
            content = tokenizer(LINES[number], add_special_tokens=False)["input_ids"]
            whole = tokenizer(LINES[number])["input_ids"]
            if whole != list(frame.complete(tuple(content))):
                raise SystemExit(f"hub_parity: the frame of {LINES[number]!r} differs: {whole}, {frame}")
            yield whole
        else:
            content = usable[torch.randint(len(usable), (number % 23,))].tolist()
            yield list(frame.complete(tuple(content)))


@torch.no_grad()
def compare(directory: Path, count: int = SENTENCES) -> Result:
    """One directory, in several pairs of languages where it has them."""
    checkpoint = choose_family(directory).read(directory)
    framing, config = framing_of(checkpoint), checkpoint.model.config
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    result = Result()
    for source, target in pairs_of(checkpoint):
        frame = framing.frame(source, target)
        sources = list(sources_for(tokenizer, checkpoint, frame, source or checkpoint.default_source_language, count))
        ids, lengths = reference.pad(sources, config.pad_id)
        mask = (torch.arange(ids.shape[1])[None, :] < lengths[:, None]).long()
        fed = torch.randint(6, config.target_vocab_size, (count, 20))
        allowed = torch.ones(config.target_vocab_size, dtype=torch.bool)
        allowed[list(checkpoint.provenance["suppressed_tokens"])] = False  # folded in; transformers has them outside
        expected = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=fed).logits
        error = float((checkpoint.model(ids, lengths, fed) - expected)[..., allowed].abs().max())
        rows = theirs.generate(
            input_ids=ids, attention_mask=mask, num_beams=1, do_sample=False,
            **forced(tokenizer, target or named(tokenizer, theirs)),
        ).tolist()
        decoded = reference.greedy(
            checkpoint.model, sources, checkpoint.default_max_new_tokens, checkpoint.default_min_new_tokens,
            prompts=[frame.prompt] * count, forced_end=checkpoint.forced_end,
        )
        result.error, result.frames = max(result.error, error), result.frames + 1
        result.sentences += count
        for number, (row, mine) in enumerate(zip(rows, decoded, strict=True)):
            whole = answer(frame, mine, checkpoint)
            result.tokens += len(whole)
            if whole + [config.pad_id] * (len(row) - len(whole)) != row:
                place = next((i for i, (a, b) in enumerate(zip(whole, row, strict=False)) if a != b), len(whole))
                parted = f"{row[place : place + 3]}, {whole[place : place + 3]}"
                result.different.append(f"{source}-{target} {number} at {place}: {parted}")
    return result


def answer(frame: Frame, mine: reference.Decoded, checkpoint: LoadedCheckpoint) -> list[int]:
    """What ``generate`` would return of it: prompt, tokens, end token."""
    ended = mine.finish_reason == "eos" or checkpoint.forced_end
    return [*frame.prompt, *mine.token_ids, *([checkpoint.model.config.eos_id] if ended else [])]


def random_models(families: list[str]) -> bool:
    """Every variant of every class, in a directory of its own; whether all are equal."""
    good = True
    for family in families:
        total = 0
        for name, changes in VARIANTS[family].items():
            with tempfile.TemporaryDirectory() as directory:
                make_model(family, changes, Path(directory))
                result = compare(Path(directory))
            print(result.line(f"{family}: {name}"), flush=True)
            for line in result.different[:5]:
                print(f"    {line}")
            good &= result.error <= TOLERANCE and not result.different
            total += result.sentences
        print(f"{family}: {total} sentences")
    return good


def main() -> int:
    """Print one line per model; 1 when any differs."""
    parser = argparse.ArgumentParser(description="Compare BART's relatives with transformers.")
    parser.add_argument("families", nargs="*", metavar="CLASS", help=f"{', '.join(CLASSES)}; trained: marian too")
    parser.add_argument("--models", type=Path, metavar="DIR", help="compare the trained models below as well")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the Multi30k files, for --models")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save small models and results instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.write is not None:
        from peers import hub_golden

        hub_golden.write(args.write)
        return 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; {SENTENCES} sentences per frame")
    good = random_models([family for family in args.families or CLASSES if family in VARIANTS])
    if args.models is not None:
        from peers import hub_trained

        good &= hub_trained.compare_all(args.models, args.data, args.families)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
