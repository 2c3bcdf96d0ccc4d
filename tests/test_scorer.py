"""The scorer: what the model itself says of targets and attends to, the same bits in any company, and no scorer."""

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from built_bundle import Built
from seqserve.alignment import Alignment
from seqserve.bundle import BundleError
from seqserve_export import pipeline, reference
from seqserve_export.description import alignment_of, describe
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.model import Transformer
from seqserve_server import scorer
from seqserve_server.config import ServerConfig
from seqserve_server.engine import Pair, Scored
from seqserve_server.local import LocalModel
from seqserve_server.server import open_model
from tiny_model import EOS, START, tiny_model

TOLERANCE = 1e-4  # as of the proof: random targets are improbable, and log-probabilities of -50 have fewer digits
LENGTHS = (1, 2, 15, 16, 17, 40)
Ids = list[int]


def pairs(count: int, seed: int = 0, most: int = 50) -> tuple[list[Ids], list[Ids], list[Ids]]:
    """Sources, targets, and prompts of one to three tokens, around the lengths where padding grows."""
    rng = random.Random(seed)

    def ids(length: int) -> Ids:
        return [rng.randrange(3, most) for _ in range(length)]

    sources = [[*ids(rng.choice(LENGTHS) - 1), EOS] for _ in range(count)]
    targets = [[*ids(rng.choice(LENGTHS) - 1), EOS] for _ in range(count)]
    return sources, targets, [[START, *ids(rng.randrange(3))] for _ in range(count)]


def attention(model: Transformer, source: Ids, fed: Ids, layer: int) -> NDArray[np.float32]:
    """Cross-attention [heads, fed, source] of one layer of the source model, from its own queries and keys."""
    cross, seen = model.decoder[layer].cross, {}
    hooks = [
        getattr(cross, name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output[0]}))
        for name in ("query", "key")
    ]
    with torch.no_grad():
        model(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([fed]))
    for hook in hooks:
        hook.remove()
    size = model.config.head_size
    query, key = (seen[name].reshape(-1, model.config.heads, size).transpose(0, 1) for name in ("query", "key"))
    weights: NDArray[np.float32] = torch.softmax(query @ key.transpose(1, 2) * model.config.score_scale, dim=-1).numpy()
    return weights


def expected(
    model: Transformer, source: Ids, target: Ids, prompt: Ids, layer: int, heads: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    logits = torch.from_numpy(reference.step_logits(model, [source], [target], [prompt])[0])
    own = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(target)[:, None])[:, 0].numpy()
    weights = attention(model, source, [*prompt, *target[:-1]], layer)[list(heads)].mean(axis=0)
    return own, weights[len(prompt) - 1 :]


def assert_scored(model: Transformer, local: LocalModel, layer: int, heads: Sequence[int]) -> None:
    asked = pairs(12)
    for scored, source, target, prompt in zip(local.score(*asked), *asked, strict=True):
        log_probs, weights = expected(model, source, target, prompt, layer, heads)
        assert scored.alignment.shape == (len(target), len(source))
        np.testing.assert_allclose(scored.log_probs, log_probs, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(scored.alignment, weights, atol=TOLERANCE, rtol=0)


def as_bits(scored: Scored) -> tuple[bytes, bytes]:
    return scored.log_probs.tobytes(), scored.alignment.tobytes()


@pytest.fixture
def local(tiny_bundle: Path) -> Iterator[LocalModel]:
    with LocalModel.open(tiny_bundle, threads=2) as opened:
        yield opened


def test_scores_and_attention_are_the_source_models(built: Built) -> None:
    with LocalModel.open(built.bundle, threads=1, verify=False) as opened:
        assert_scored(built.checkpoint.transformer, opened, 0, range(built.checkpoint.transformer.config.heads))


def test_attention_is_of_the_layer_and_the_heads_that_the_source_names(tmp_path: Path) -> None:
    checkpoint = LoadedCheckpoint(
        family="native", model=tiny_model(decoder_layers=3), source_prefix=(), source_suffix=(EOS,), unk_id=None,
        default_max_new_tokens=8, alignment=(2, (1, 3)),
    )
    description = describe(checkpoint, "tiny", "fp32")
    assert str(description.alignment) == "layer 3 of 3, mean of 2 heads"
    pipeline.write_graphs(checkpoint.transformer, tmp_path, description.alignment)
    (tmp_path / "model.json").write_text(description.to_json())
    with LocalModel.open(tmp_path, threads=1, verify=False) as opened:
        assert_scored(checkpoint.transformer, opened, 2, (1, 3))


@pytest.mark.parametrize(("layers", "chosen"), [(1, 0), (2, 0), (6, 4)])
def test_a_source_that_names_none_gives_all_heads_of_the_last_layer_but_one(layers: int, chosen: int) -> None:
    checkpoint = LoadedCheckpoint(
        family="native", model=tiny_model(decoder_layers=layers), source_prefix=(), source_suffix=(EOS,), unk_id=None,
        default_max_new_tokens=8,
    )
    alignment = alignment_of(checkpoint)
    assert (alignment.layer, alignment.heads) == (chosen, (0, 1, 2, 3))
    told = f"layer {chosen + 1} of {layers}, mean of 4 heads (not declared by the model)"
    assert str(Alignment.from_json(json.loads(describe(checkpoint, "tiny", "fp32").to_json())["alignment"])) == told


def test_a_pair_has_the_same_bits_alone_and_in_any_mix(local: LocalModel) -> None:
    sources, targets, prompts = pairs(40, most=200)
    alone = [
        as_bits(local.score([source], [target], [prompt])[0])
        for source, target, prompt in zip(sources, targets, prompts, strict=True)
    ]
    for seed, count in enumerate((2, 3, 7, 16, 40)):
        order = random.Random(seed).sample(range(40), count)
        mixed = local.score(*([each[place] for place in order] for each in (sources, targets, prompts)))
        assert [as_bits(scored) for scored in mixed] == [alone[place] for place in order]


def test_more_than_one_pass_holds_gives_the_same_bits(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pairs(12, most=200)
    together = [as_bits(scored) for scored in local.score(*asked)]
    monkeypatch.setattr(scorer, "MOST_LOGIT_BYTES", 4 * 200 * 30)
    sizes: list[int] = []

    def counted(
        session: ort.InferenceSession, part: Sequence[Pair], encoded: Mapping[str, NDArray[np.generic]]
    ) -> list[Scored]:
        sizes.append(len(part))
        return run(session, part, encoded)

    run = scorer.run_scorer
    monkeypatch.setattr("seqserve_server.ort_engine.run_scorer", counted)
    assert [as_bits(scored) for scored in local.score(*asked)] == together
    assert len(sizes) > 3
    assert sum(sizes) == 12


def test_a_pass_has_as_many_pairs_as_its_logits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "MOST_LOGIT_BYTES", 4 * 10 * 7)  # seven tokens of ten logits
    asked = [Pair([1], [0] * (length + 1), 1) for length in (3, 4, 1, 9, 2, 5, 1)]
    passes = [[len(pair.target) - 1 for pair in part] for part in scorer.passes_of(asked, 10)]
    assert passes == [[3, 4], [1], [9], [2, 5], [1]]
    assert list(scorer.passes_of([], 10)) == []


def test_scores_are_what_decoding_said_of_its_own_answer(local: LocalModel) -> None:
    sources, _, _ = pairs(12, most=200)
    answers = local.generate(sources, max_new_tokens=20)
    targets = [[*answer.token_ids, *([EOS] if answer.finish_reason == "eos" else [])] for answer in answers]
    for scored, answer in zip(local.score(sources, targets), answers, strict=True):
        np.testing.assert_allclose(scored.log_probs, answer.log_probs, atol=TOLERANCE, rtol=0)


def test_no_row_and_no_place_is_touched(local: LocalModel) -> None:
    sources, targets, prompts = pairs(8, most=200)
    undisturbed = local.generate([sources[0]], max_new_tokens=12)[0]
    streamed = local.stream(sources[0], max_new_tokens=12)
    tokens = [next(streamed)]
    before = local.served.engine.state_bytes
    local.score(sources, targets, prompts)
    assert local.served.engine.state_bytes == before
    *_, finished = [*tokens, *streamed]
    assert not isinstance(finished, list)
    assert (finished.token_ids, finished.log_probs) == (undisturbed.token_ids, undisturbed.log_probs)


def test_every_large_tensor_of_the_scorer_is_one_of_the_decoders(built: Built) -> None:
    def stored(name: str) -> set[tuple[str, str]]:
        graph = onnx.load(built.bundle / name, load_external_data=False).graph
        held = [{entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer]
        return {(each["offset"], each["length"]) for each in held if each}

    assert stored("scorer.onnx")
    assert stored("scorer.onnx") <= stored("decoder.onnx")


def test_a_scorer_that_is_not_wanted_stays_closed(tiny_bundle: Path) -> None:
    for no_scorer in (False, True):
        model = open_model(ServerConfig(bundles=(tiny_bundle,), threads=1, no_scorer=no_scorer))
        assert model.engine.can_score is not no_scorer
    with pytest.raises(RuntimeError, match="without a scorer"):
        model.engine.score([Pair([EOS], [START, EOS], 1)])


def test_a_bundle_from_before_there_were_scorers_is_served_without(tiny_bundle: Path, tmp_path: Path) -> None:
    old = shutil.copytree(tiny_bundle, tmp_path / "old")
    (old / "scorer.onnx").unlink()
    description = json.loads((old / "model.json").read_text())
    del description["alignment"]
    (old / "model.json").write_text(json.dumps(description))
    with LocalModel.open(old, threads=1, verify=False) as opened:
        assert not opened.can_score
        assert opened.generate([[5, EOS]], max_new_tokens=4)


def test_a_scorer_that_is_promised_has_to_be_there_and_to_be_one(tiny_bundle: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    (broken / "scorer.onnx").unlink()
    with pytest.raises(BundleError, match=r"scorer\.onnx"):
        LocalModel.open(broken, threads=1, verify=False)
    shutil.copy(broken / "encoder.onnx", broken / "scorer.onnx")
    with pytest.raises(BundleError, match=r"scorer\.onnx: inputs differ from model\.json: lengths, source_lengths, "):
        LocalModel.open(broken, threads=1, verify=False)


@pytest.mark.parametrize("changes", [
    {"layer": 2}, {"layer": -1}, {"layer": True}, {"heads": []}, {"heads": [-1]}, {"heads": ["0"]}, {"heads": 1},
    {"declared": 1}, {"layers": 0}, {"more": 1},
])
def test_a_malformed_alignment_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="layer"):
        Alignment.from_json({"layer": 0, "heads": [0], "layers": 2, "declared": True, **changes})
