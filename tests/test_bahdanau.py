"""The book's recurrent state dictionaries: equal to the book's arithmetic, and refused where something does not fit."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from book_recurrent import RecurrentBook
from checkpoint_edits import change_tensors
from seqserve_export import reference
from seqserve_export.errors import ExportError
from seqserve_export.families import choose_family
from seqserve_export.families.checkpoint import LoadedCheckpoint, SourceOptions
from seqserve_export.pipeline import ExportOptions, export_bundle
from seqserve_server.local import LocalModel

SOURCE = ["<unk>", "<bos>", "<eos>", "<pad>", *(f"word{n}" for n in range(12))]
TARGET = ["<pad>", "<unk>", *(f"wort{n}" for n in range(9)), "<eos>", "<bos>"]
IDS, PREFIX = [7, 5, 14, 2], [12, 4, 9, 9, 7, 3]
END, START = TARGET.index("<eos>"), TARGET.index("<bos>")
NUM_STEPS, PADDING = 9, SOURCE.index("<pad>")


def write_book(directory: Path, *, settings: dict[str, object] | None = None, wrapped: bool = True) -> RecurrentBook:
    """A random model of the book's in a directory of its own."""
    torch.manual_seed(3)
    model = RecurrentBook(len(SOURCE), len(TARGET), wrapped=wrapped).eval().requires_grad_(False)
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors")
    (directory / "source_vocab.json").write_text(json.dumps(SOURCE))
    (directory / "target_vocab.json").write_text(json.dumps(TARGET))
    if settings is not None:
        (directory / "config.json").write_text(json.dumps(settings))
    return model


def read(directory: Path, **options: int) -> LoadedCheckpoint:
    return choose_family(directory, "bahdanau").read(directory, SourceOptions(**options))  # type: ignore[arg-type]


def logits_of(checkpoint: LoadedCheckpoint, ids: list[int] = IDS) -> torch.Tensor:
    return checkpoint.model(torch.tensor([ids]), torch.tensor([len(ids)]), torch.tensor([PREFIX]))[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("wrapped", [False, True])
def test_logits_over_a_whole_prefix_are_the_books(tmp_path: Path, wrapped: bool) -> None:
    book = write_book(tmp_path / "book", wrapped=wrapped)
    assert ("encoder.rnn.rnn.weight_ih_l0" in book.state_dict()) == wrapped
    checkpoint = read(tmp_path / "book")
    torch.testing.assert_close(logits_of(checkpoint), book(IDS, PREFIX), atol=1e-5, rtol=0)
    assert checkpoint.notes == (
        "the encoder reads the tokens of a source alone; the book's reads on over padding to num_steps tokens and "
        "decodes from the state behind it: --pad-sources N does so",
    )


@pytest.mark.parametrize("length", [1, 4, NUM_STEPS, NUM_STEPS + 2])
def test_padded_sources_are_read_as_in_the_books_batches(tmp_path: Path, length: int) -> None:
    book = write_book(tmp_path / "book")
    checkpoint = read(tmp_path / "book", pad_sources=NUM_STEPS)
    ids = [*([5, 8, 6, 11] * 3)[: length - 1], 2]
    padded = book(ids, PREFIX, [PADDING] * (NUM_STEPS - length))
    torch.testing.assert_close(logits_of(checkpoint, ids), padded, atol=1e-5, rtol=0)
    alone = torch.allclose(padded, book(ids, PREFIX), atol=1e-3)
    assert alone == (length >= NUM_STEPS)  # so that the option is seen to do something
    assert checkpoint.notes == ("sources of fewer than 9 tokens are read on over padding, as in the book's batches",)
    assert checkpoint.provenance["padded_source_length"] == NUM_STEPS


@pytest.mark.parametrize("padded", [None, NUM_STEPS])
def test_greedy_tokens_in_one_batch_are_the_books_one_by_one(tmp_path: Path, padded: int | None) -> None:
    book = write_book(tmp_path / "book")
    checkpoint = read(tmp_path / "book", **({} if padded is None else {"pad_sources": padded}))
    random = Random(5)
    sources = [[*random.choices(range(4, len(SOURCE)), k=random.randrange(0, 12)), 2] for _ in range(40)]
    found = reference.greedy(checkpoint.model, sources, 12)
    ends = 0
    for ids, decoded in zip(sources, found, strict=True):
        ended = decoded.finish_reason == "eos"
        tokens = [*decoded.token_ids, *[END] * ended]
        logits = book(ids, [START, *tokens[:-1]], [PADDING] * max(0, (padded or 0) - len(ids)))
        assert logits.argmax(1).tolist() == tokens
        ends += ended
    assert 0 < ends < len(sources)


def test_a_bundle_decodes_as_the_book_would(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book", settings={"format": "Seq2SeqAttentionDecoder", "num_steps": NUM_STEPS})
    options = ExportOptions(
        source=tmp_path / "book", out=tmp_path / "out", checkpoint=SourceOptions(pad_sources=NUM_STEPS), scorer=False
    )
    export_bundle(options, lambda directory, **how: LocalModel.open(directory, threads=1, **how))
    random = Random(3)
    sources = [[*random.choices(range(4, len(SOURCE)), k=random.randrange(0, 20)), 2] for _ in range(30)]
    with LocalModel.open(tmp_path / "out", threads=1) as model:
        assert (model.description.family, model.description.default_max_new_tokens) == ("bahdanau", NUM_STEPS)
        for ids, found in zip(sources, model.generate(sources, max_new_tokens=12), strict=True):
            tokens = [*found.token_ids, *[END] * (found.finish_reason == "eos")]
            padding = [PADDING] * max(0, NUM_STEPS - len(ids))
            logits = book(ids, [START, *tokens[:-1]], padding)
            assert logits.argmax(1).tolist() == tokens
            np.testing.assert_allclose(model.step_logits(ids, tokens), logits, atol=1e-4)


def test_special_tokens_and_words_come_from_the_vocabularies(tmp_path: Path) -> None:
    write_book(tmp_path / "book", settings={"num_steps": NUM_STEPS, "num_hiddens": 10, "num_layers": 2, "dropout": 0.2})
    checkpoint = read(tmp_path / "book", max_source_length=50)
    config = checkpoint.model.config
    assert (checkpoint.source_suffix, checkpoint.unk_id) == ((2,), 0)
    assert (config.pad_id, config.eos_id, config.decoder_start_id) == (0, END, START)
    assert (config.max_source_length, config.max_target_length) == (50, 1000)
    assert checkpoint.default_max_new_tokens == NUM_STEPS
    assert "--pad-sources 9 does so" in checkpoint.notes[0]
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.encoder()("word3 Word3") == [7, 0]


def test_the_kind_is_recognised_by_its_format_and_told_where_there_is_none(tmp_path: Path) -> None:
    write_book(tmp_path / "said", settings={"format": "Seq2SeqAttentionDecoder"})
    assert choose_family(tmp_path / "said").name == "bahdanau"
    write_book(tmp_path / "unsaid")
    with pytest.raises(ExportError, match="is of the book's recurrent model: export it with --family bahdanau"):
        choose_family(tmp_path / "unsaid").read(tmp_path / "unsaid")


def test_pickled_weights_are_read_too(tmp_path: Path) -> None:
    book = write_book(tmp_path / "book")
    (tmp_path / "book" / "model.safetensors").unlink()
    torch.save(book.state_dict(), tmp_path / "book" / "model.pt")
    torch.testing.assert_close(logits_of(read(tmp_path / "book")), book(IDS, PREFIX), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("settings", "told"), [
    ({"num_hiddens": 12}, "config.json: num_hiddens is 12, but model.safetensors has 10"),
    ({"num_layers": 1}, "config.json: num_layers is 1, but model.safetensors has 2"),
    ({"embed_size": 8}, "config.json: embed_size is 8, but model.safetensors has 7"),
    ({"num_heads": 2}, "unknown keys num_heads; known: format, embed_size"),
    ({"num_steps": "9"}, "config.json: num_steps '9' is not an integer of at least 1"),
    ({"format": "GRU"}, "config.json: format 'GRU' is not one of Seq2SeqAttentionDecoder"),
    ({"dropout": 1.0}, "config.json: dropout 1.0 is not a number from 0 to below 1"),
])
def test_settings_that_do_not_fit_are_named(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    write_book(tmp_path / "book", settings=settings)
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book")


@pytest.mark.parametrize(("options", "told"), [
    ({"pad_sources": 0}, r"--pad-sources 0: outside 1\.\.65536"),
    ({"pad_sources": 1001}, r"--pad-sources 1001: sources may have 1000 tokens \(--max-source-length\)"),
    ({"max_source_length": 8, "pad_sources": 9}, "--pad-sources 9: sources may have 8 tokens"),
    ({"max_target_length": 1 << 17}, "--max-target-length 131072: outside"),
    ({"heads": 4}, "--heads: means nothing to the family bahdanau"),
])
def test_options_that_do_not_fit_are_named(tmp_path: Path, options: dict[str, int], told: str) -> None:
    write_book(tmp_path / "book")
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book", **options)


@pytest.mark.parametrize(("side", "content", "told"), [
    ("source", SOURCE[:-1], "source_vocab.json: 15 tokens, but the embedding has 16 rows"),
    ("target", [*TARGET[:-1], "bos"], "target_vocab.json: has no <bos>"),
    ("source", [*SOURCE[:-1], "word1"], "source_vocab.json: 'word1' is there more than once"),
])
def test_vocabularies_that_do_not_fit_are_named(tmp_path: Path, side: str, content: object, told: str) -> None:
    write_book(tmp_path / "book")
    (tmp_path / "book" / f"{side}_vocab.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book")


@pytest.mark.parametrize(("name", "tensor", "told"), [
    ("encoder.rnn.rnn.weight_hh_l0", torch.zeros(40, 10), r"is \[40, 10\], not 3 square gates: not gated recurrent"),
    ("encoder.rnn.rnn.weight_hh_l0", torch.zeros(30), r"encoder.rnn.weight_hh_l0 is \[30\], not a matrix"),
    ("encoder.rnn.rnn.weight_hh_l0", None, "no encoder.rnn.weight_hh_l0: not the state dictionary of the book's"),
    ("encoder.rnn.rnn.bias_hh_l1", None, r"tensor encoder\.rnn\.bias_hh_l1 missing"),
    ("encoder.rnn.weight_hh_l0", torch.zeros(30, 10), "encoder.rnn.weight_hh_l0 is there twice, under two names"),
    ("decoder.rnn.weight_hh_l1", None, r"tensor decoder\.rnn\.weight_hh_l1 missing"),
    ("decoder.rnn.weight_hh_l2", torch.zeros(30, 10), "decoder_layers: 3 is more than the 2 encoder_layers"),
    ("encoder.rnn.rnn.weight_hh_l99999999", torch.zeros(1), "encoder_layers: 100000000 is over the limit"),
    ("decoder.attention.W_q.weight", None, r"no decoder\.attention\.W_q\.weight: not the state dictionary"),
    ("decoder.attention.W_k.weight", torch.zeros(10, 9), r"attention\.W_k\.weight is \[10, 9\] where the rest"),
    ("decoder.embedding.weight", torch.zeros(13, 8), r"decoder\.embedding\.weight is \[13, 8\] where the rest"),
])
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, told: str
) -> None:
    write_book(tmp_path / "book")
    change_tensors(tmp_path / "book", **{name: tensor})
    with pytest.raises(ExportError, match=told):
        read(tmp_path / "book")
