"""T5 from a directory to a bundle that answers texts, and the same bits in any company past the last bucket."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_edits import change_json, load
from seqserve import bundle
from seqserve_export import pipeline, proof_sources
from seqserve_export.families.checkpoint import SourceOptions
from seqserve_export.graphs.decoder import DecoderGraph
from seqserve_export.graphs.encoder import EncoderGraph
from seqserve_export.model.positions import relative_bucket
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_export.tokenizer_files import HubFile
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.request import Finished
from serving import make_tokenizer
from tiny_model import tiny_model

DATA = Path(__file__).parent / "data"
SIZE = json.loads((DATA / "sentencepiece" / "t5" / "expected.json").read_text(encoding="utf-8"))["size"]
TEXT = "translate English to German: A man rides a horse."
LENGTHS = (1, 2, 15, 16, 17, 40, 127, 128, 129, 200)  # with the last bucket's distance of 20 among them


def write_directory(directory: Path) -> Path:
    """The small T5 with an embedding for the small model of pieces, and that."""
    directory.mkdir()
    tensors = load_file(DATA / "t5" / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("shared.weight", "lm_head.weight"):
        tensors[name] = torch.randn(SIZE, 12, generator=generator)
    save_file(tensors, directory / "model.safetensors")
    for source in (DATA / "t5" / "config.json", DATA / "t5" / "generation_config.json",
                   DATA / "sentencepiece" / "t5" / "spiece.model"):
        shutil.copyfile(source, directory / source.name)
    change_json(directory / "config.json", vocab_size=SIZE)
    return directory


@pytest.fixture(scope="module", params=["fp32", "int8"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("t5")
    (directory / "lines.txt").write_text(f"{TEXT}\nTwo dogs play in the snow.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof_sources, "COUNT", 12)
        patch.setattr(pipeline, "PROOF_NEW_TOKENS_TEXT", 8)
        options = ExportOptions(
            source=write_directory(directory / "flan"), out=directory / "out", sentences=directory / "lines.txt",
            precision=request.param, checkpoint=SourceOptions(max_source_length=300, max_target_length=200),
        )
        export_bundle(options, lambda path, **how: LocalModel.open(path, threads=1, **how))
    return directory / "out"


def test_a_t5_directory_becomes_a_bundle_of_text(exported: Path) -> None:
    with LocalModel.open(exported, threads=1) as model:
        description, tokenizer, answers = model.description, model.served.tokenizer, InProcess(model)
        assert (description.family, description.unk_id, description.decoder_prompt) == ("t5", 2, (0,))
        assert (description.max_source_length, description.max_target_length) == (300, 200)
        assert tokenizer is not None
        limits: dict[str, Any] = {"max_new_tokens": 20, "min_new_tokens": None}
        (result,) = answers.generate("text", [TEXT], **limits)
        (same,) = answers.generate("token_ids", [tokenizer.encode(TEXT)], **limits)
        assert result.hypotheses == same.hypotheses
        assert result.hypotheses[0].text == tokenizer.decode(result.hypotheses[0].token_ids) != ""
        chunks = list(answers.stream("text", TEXT, **limits))
        assert "".join(chunk.text for chunk in chunks) == result.hypotheses[0].text
    listed = json.loads((exported / "manifest.json").read_text())["files"]
    assert {bundle.PIECES_FILE, bundle.TOKENIZER_CONFIG_FILE} == {name for name in listed if "tokenizer/" in name}


def bits(result: Finished) -> tuple[list[int], bytes]:
    return result.token_ids, np.array([result.score, *result.log_probs]).tobytes()


def test_neighbours_change_no_bit_of_a_row_past_the_last_bucket(exported: Path) -> None:
    chooser = random.Random(0)
    sources = [[*(chooser.randrange(3, SIZE) for _ in range(length)), 1] for length in LENGTHS]
    with LocalModel.open(exported, threads=1) as model:
        alone = [bits(model.generate([source], max_new_tokens=150)[0]) for source in sources]
        for steps in (1, 80):
            order = chooser.sample(range(len(sources)), len(sources))
            mixed = model.generate(
                [sources[place] for place in order], max_new_tokens=150,
                arrivals=[chooser.randrange(steps) for _ in order],
            )
            for place, result in zip(order, mixed, strict=True):
                assert bits(result) == alone[place], LENGTHS[place]
    assert max(len(token_ids) for token_ids, _ in alone) > 128


def test_a_tokenizer_file_of_the_hub_comes_first(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "flan")
    make_tokenizer()._inner.save(str(directory / "tokenizer.json"))
    checkpoint = load(directory)
    assert checkpoint.tokenizer == HubFile(directory / "tokenizer.json")
    assert checkpoint.unk_id == 0
    assert {"tokenizer.json", "spiece.model"} <= set(checkpoint.provenance["source_files"])


def test_without_a_tokenizer_the_bundle_takes_ids_and_says_so(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "flan")
    (directory / "spiece.model").unlink()
    checkpoint = load(directory)
    assert (checkpoint.tokenizer, checkpoint.unk_id) == (None, None)
    assert checkpoint.all_notes[-1] == (
        "without tokenizer.json or spiece.model: the bundle takes and returns token ids"
    )


@pytest.mark.parametrize("longest", [4, 5000])
def test_bias_tables_end_at_the_last_bucket(longest: int) -> None:
    model = tiny_model(
        positions="relative", relative_buckets=8, relative_max_distance=20, max_source_length=longest,
        max_target_length=longest,
    )
    encoder, decoder = EncoderGraph(model), DecoderGraph(model)
    assert encoder.bias_table.shape == (2 * min(longest, 20) + 1, 4)
    assert decoder.bias_table.shape == (min(longest - 1, 20) + 1, 4)
    for distance in (20, 21, 200, 4999):
        bucket = relative_bucket(torch.tensor([-distance]), bidirectional=False, buckets=8, max_distance=20)
        assert bucket == 7, "what lies farther shares the last bucket"
