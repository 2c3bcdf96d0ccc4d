"""What tests/data/hub holds: one tiny model of each class with its tokenizer, and what transformers makes of both."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from peers.hub_parity import forced
from peers.hub_random import LINES, make_model

TINY: dict[str, Any] = {
    "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12, "max_position_embeddings": 40,
    "encoder_layers": 1, "decoder_layers": 1,
}
# Class, what differs, and the pairs of languages to try; None is the default.
MODELS: dict[str, tuple[str, dict[str, Any], list[tuple[str | None, str | None]]]] = {
    "bart": ("bart", {"d_model": 12, "generation": {"forced_bos_token_id": 0, "min_length": 8}}, [(None, None)]),
    "pegasus": ("pegasus", {"scale_embedding": True}, [(None, None)]),
    "mbart": ("mbart", {"tokenizer": "mbart", "scale_embedding": True, "generation": {"decoder_start": "ro_RO"}},
              [(None, None), ("de_DE", "fr_XX")]),
    "mbart50": ("mbart", {"tokenizer": "mbart50", "decoder_start_token_id": 2},
                [("en_XX", "de_DE"), ("sl_SI", "ar_AR")]),
    "m2m100": ("m2m100", {"tokenizer": "m2m100"}, [("en", "de"), ("zu", "af"), (None, "fr")]),
    "nllb": ("m2m100", {"tokenizer": "nllb", "generation": {"forced_eos_token_id": 2}},
             [("eng_Latn", "deu_Latn"), ("zho_Hans", "fra_Latn")]),
    "nllb-legacy": ("m2m100", {"tokenizer": "nllb-legacy"}, [("deu_Latn", "eng_Latn")]),
}
TYPED = ("A</s> man <unk>  rides", "Größe: 日本 <s> ok")  # special tokens in a text, unknown characters


@torch.no_grad()
def write(directory: Path) -> None:
    """Every model, in a directory of its own."""
    for name, (family, changes, pairs) in MODELS.items():
        path = directory / name
        shutil.rmtree(path, ignore_errors=True)
        torch.manual_seed(len(name))
        make_model(family, {**TINY, **changes}, path, size=60)
        if (path / "tokenizer.json").is_file():
            (path / "sentencepiece.bpe.model").unlink(missing_ok=True)
            compact(path / "tokenizer.json")
        (path / "model.safetensors").chmod(0o644)
        (path / "expected.json").write_text(json.dumps(expected(path, pairs)) + "\n", encoding="utf-8")


def compact(path: Path) -> None:
    """Without the indentation, which is most of the file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), ensure_ascii=False), encoding="utf-8")


def expected(path: Path, pairs: list[tuple[str | None, str | None]]) -> dict[str, Any]:
    """Ids, frames, greedy answers and texts for every pair, and the logits of one source."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    texts = [*LINES, *TYPED]
    cases: list[dict[str, Any]] = []
    default = getattr(tokenizer, "src_lang", None)
    for source, target in pairs:
        if default is not None:
            tokenizer.src_lang = source or default
        whole = [tokenizer(text)["input_ids"] for text in texts]
        rows = [
            model.generate(
                input_ids=torch.tensor([ids]), num_beams=1, do_sample=False, **forced(tokenizer, target)
            )[0].tolist()
            for ids in whole
        ]
        cases.append({
            "source_language": source, "target_language": target, "sources": whole, "rows": rows,
            "answers": [tokenizer.decode(row, skip_special_tokens=True) for row in rows],
        })
    fed = [model.config.eos_token_id, *torch.randint(6, 50, (4,)).tolist()]
    first = torch.tensor(cases[0]["sources"][:1])
    logits = model(input_ids=first, decoder_input_ids=torch.tensor([fed])).logits[0]
    return {
        "transformers": transformers.__version__, "texts": texts,
        "contents": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], "cases": cases,
        "logits": {"fed": fed, "values": [[round(value, 6) for value in row] for row in logits.tolist()]},
    }
