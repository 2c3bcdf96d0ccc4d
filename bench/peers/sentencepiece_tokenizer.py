"""Compare directories with one SentencePiece model, as served, with transformers: ids of texts, and texts of ids.

transformers is no dependency of this project; run this where it is installed, beside torch and sentencepiece. To read
such files it needs a protobuf newer than this project's, which may lie apart:

    .venv-peers/bin/pip install --no-deps --target var/protobuf 'protobuf>=7.36.1'
    export PYTHONPATH=var/protobuf:bench:server:export:proto
    .venv-peers/bin/python bench/peers/sentencepiece_tokenizer.py DATA
    .venv-peers/bin/python bench/peers/sentencepiece_tokenizer.py --write DIR

The first trains models on Multi30k's training split and reads all of its sentences, of every split and language; the
second saves tiny models and what transformers makes of awkward texts: tests/data/sentencepiece was made so.
"""

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer

from multi30k import sentences
from seqserve_export.model import TransformerConfig
from seqserve_export.sentencepiece_files import HABITS, SentencePieceFiles
from seqserve_server.tokenizer import IncrementalDetokenizer
from seqserve_server.tokenizer.sentencepiece import SentencePieceTokenizer

try:
    import transformers
except ImportError:
    sys.exit("sentencepiece_tokenizer: transformers is not installed here; make bench-peers installs it")

VOCABULARY, TINY_VOCABULARY, ROWS = 6000, 110, 3000
LANGUAGES = ("en", "de", "fr")
MBART_LANGUAGES = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
]
T5_IDS: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
FAIRSEQ_IDS: dict[str, Any] = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
BYTES: dict[str, Any] = {"byte_fallback": True, "character_coverage": 0.985}
# Name: habit, transformers' class, the trainer's settings, tokenizer_config.json, languages.
VARIANTS: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any], list[str]]] = {
    "T5": ("t5", transformers.T5Tokenizer, T5_IDS, {}, []),
    "T5, not legacy": ("t5", transformers.T5Tokenizer, T5_IDS, {"legacy": False, "extra_ids": 7}, []),
    "T5, tokens of the user": (
        "t5", transformers.T5Tokenizer, T5_IDS,
        {"extra_ids": 2, "cls_token": "<cls>",
         "extra_special_tokens": ["<extra_id_0>", "<extra_id_1>", "<sep>", "▁horse"]}, [],
    ),
    "mT5, byte fallback": ("t5", transformers.T5Tokenizer, {**T5_IDS, **BYTES}, {"extra_ids": 0}, []),
    "T5, symbols of the user": (
        "t5", transformers.T5Tokenizer, {**T5_IDS, "user_defined_symbols": ["<X>", "dog"]},
        {}, [],
    ),
    "Pegasus": ("pegasus", transformers.PegasusTokenizer, T5_IDS, {}, []),
    "XLM-R": ("fairseq", transformers.XLMRobertaTokenizer, FAIRSEQ_IDS, {}, []),
    "mBART": ("mbart", transformers.MBartTokenizer, FAIRSEQ_IDS, {}, MBART_LANGUAGES),
    "NLLB, BPE": ("nllb", transformers.NllbTokenizer, {**FAIRSEQ_IDS, "model_type": "bpe"},
                  {"extra_special_tokens": ["eng_Latn", "deu_Latn"]}, []),
}
AWKWARD = (
    "", " ", "\n", "A man", "  A  man  rides ", "A\tman\nrides", "A\u00a0man\u3000rides", "Größe über Äpfel, süß!",
    "日本 é 😀 a", "👩\u200d👩\u200d👧", "e\u0301 é ﬁ ２", "A´man", "▁", "▁▁ A ▁man", "▁A▁▁man", "A </s> man",
    "A</s>man", "<unk>", "A <pad><pad> man", "<s> A </s>", "</s", "A <extra_id_0> man <extra_id_99>",
    "A<extra_id_1>man", "<extra_id_100>", "A  <mask>  man", "<mask_1> <unk_5> <mask_2>", "A en_XX man de_DE eng_Latn",
    "<X>A <X> dog doggy <sep> <cls> horse▁horse", "x\u0085y\u001cz\u2028w", "translate English to German: A man.",
    "A... \"man\" 'n' “dog” – 1,000.50 €", "\u200bA\u200d man\ufeff", "x" * 300,
)
TINY_TEXTS = [
    "A man rides a horse.", "Two dogs play in the snow.", "A woman with a red hat, and a small child.",
    "Ein Mann reitet ein Pferd.", "Zwei Hunde spielen im Schnee.", "Eine Frau mit rotem Hut und Größe.",
]


def train(lines: list[str], file: Path, size: int, **settings: Any) -> None:
    """A SentencePiece model."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
        **settings,
    )
    file.write_bytes(model.getvalue())


def write_directory(name: str, lines: list[str], directory: Path, size: int, **settings: Any) -> None:
    """A variant's model file and its settings."""
    habit, _, own, named, _ = VARIANTS[name]
    directory.mkdir(parents=True, exist_ok=True)
    train(lines, directory / HABITS[habit].file, size, **{**own, **settings})
    (directory / "tokenizer_config.json").write_text(json.dumps(named) + "\n")


def open_both(name: str, directory: Path, bundle: Path) -> tuple[Any, SentencePieceTokenizer]:
    """Theirs from the directory, ours from a bundle's ``tokenizer/`` made of it."""
    habit, kind, _, _, languages = VARIANTS[name]
    theirs = kind.from_pretrained(directory)
    config = TransformerConfig(
        source_vocab_size=len(theirs), target_vocab_size=len(theirs), width=8, heads=1, head_size=8, ffn_width=8,
        encoder_layers=1, decoder_layers=1, max_source_length=8, max_target_length=8,
        pad_id=theirs.pad_token_id, eos_id=theirs.eos_token_id, decoder_start_id=theirs.eos_token_id,
    )
    SentencePieceFiles.read(directory, habit, config, languages).write(bundle)
    return theirs, SentencePieceTokenizer.read(bundle, None)


def random_rows(theirs: Any, count: int) -> Iterator[list[int]]:
    """What a model may choose: ids at random, special ones among them, and ids that no token has."""
    chooser, special = random.Random(1), theirs.all_special_ids
    for _ in range(count):
        yield [
            chooser.choice(special) if chooser.random() < 0.1 else chooser.randrange(len(theirs) + 5) for _ in range(12)
        ]


def streamed(tokenizer: SentencePieceTokenizer, ids: list[int], whole: str) -> str:
    """The text as it comes one token at a time."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    return "".join([*(detokenizer.push([token_id]) for token_id in ids), detokenizer.finish(whole)])


def compare(name: str, lines: list[str], texts: list[str]) -> int:
    """Print and count what differs."""
    with tempfile.TemporaryDirectory() as temporary:
        directory, bundle = Path(temporary, "source"), Path(temporary, "bundle")
        bundle.mkdir()
        write_directory(name, lines, directory, VOCABULARY)
        theirs, ours = open_both(name, directory, bundle)
        wrong_ids, wrong_texts, wrong_streams, shown = 0, 0, 0, []
        rows = list(random_rows(theirs, ROWS))
        for text in [*texts, *AWKWARD]:
            ids, expected = ours.encode(text), theirs(text, add_special_tokens=False)["input_ids"]
            wrong_ids += ids != expected
            if ids != expected:
                shown.append(f"  {text[:60]!r}: {ours.tokens(ids)[:12]} for {ours.tokens(expected)[:12]}")
            if len(rows) < ROWS + len(texts):
                rows.append(expected)
        for number, row in enumerate(rows):
            text = ours.decode(row)
            wrong_texts += text != theirs.decode(row, skip_special_tokens=True)
            if number < 2 * ROWS:
                wrong_streams += text != streamed(ours, row, text)
    print(
        f"{name:24} texts to ids: {len(texts) + len(AWKWARD)}, different {wrong_ids}   ids to text: {len(rows)}, "
        f"different {wrong_texts}   streamed: {2 * ROWS}, different {wrong_streams}", flush=True,
    )
    print("".join(f"{line}\n" for line in shown[:8]), end="")
    return wrong_ids + wrong_texts + wrong_streams


def write(directory: Path) -> None:
    """Tiny models, and expected.json beside each."""
    for name in ("T5", "mT5, byte fallback", "Pegasus", "mBART", "NLLB, BPE"):
        folder = directory / name.split(",")[0].lower()
        folder.mkdir(parents=True, exist_ok=True)
        rules = folder / "rules.tsv"  # the usual ones make files of 240 KB
        rules.write_text("A0\t20\n3000\t20\n9\t20\nA\t20\n2026\t2E 2E 2E\nFB01\t66 69\n65 301\tE9\nB4\t20 301\n")
        size = TINY_VOCABULARY + 256 * name.endswith("fallback")
        write_directory(name, TINY_TEXTS, folder, size, normalization_rule_tsv=str(rules))
        rules.unlink()
        with tempfile.TemporaryDirectory() as bundle:
            theirs, ours = open_both(name, folder, Path(bundle))
            shutil.rmtree(bundle, ignore_errors=True)
        expected = {
            "transformers": transformers.__version__, "size": len(theirs), "eos_id": theirs.eos_token_id,
            "encoded": [[text, theirs(text, add_special_tokens=False)["input_ids"]] for text in AWKWARD],
            "decoded": [[row, theirs.decode(row, skip_special_tokens=True)] for row in random_rows(theirs, 30)],
        }
        wrong = [text for text, ids in expected["encoded"] if ours.encode(text) != ids]
        print(f"{name}: {folder}; differs in {wrong}")
        text = json.dumps(expected, ensure_ascii=False) + "\n"
        (folder / "expected.json").write_text(text, encoding="utf-8")


def main() -> int:
    """Print one line per variant; 1 when anything differs."""
    parser = argparse.ArgumentParser(description="Compare SentencePiece tokenizers with transformers.")
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder with Multi30k")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--write", type=Path, metavar="DIR", help="save tiny models and their results instead")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if args.write is not None:
        write(args.write)
        return 0
    if args.data is None:
        parser.error("DATA or --write is required")
    splits = ("train", "val", "test_2016_flickr")
    texts = [line for language in LANGUAGES for split in splits for line in sentences(args.data, language, split)]
    lines = [line for language in LANGUAGES for line in sentences(args.data, language, "train")[::3]]
    print(f"transformers {transformers.__version__}; models of {VOCABULARY} pieces; {len(texts)} sentences")
    return int(sum(compare(name, lines, texts) for name in args.only) > 0)


if __name__ == "__main__":
    sys.exit(main())
