"""Alignments of a layer and a head that a call chooses, beside calls that do not."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray

from arithmetic_engine import ArithmeticEngine
from fake_server import FakeServer
from seqserve.bundle import BundleError
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_client import AsyncClient, InvalidInput
from seqserve_server.engine import Heads, Pair
from seqserve_server.errors import InvalidRequest
from seqserve_server.local import LocalModel
from seqserve_server.scoring import ScoreOptions, resolve_scoring
from serving import describe, serving
from test_scorer import as_bits, pairs


@pytest.fixture
def local(tiny_bundle: Path) -> Iterator[LocalModel]:
    with LocalModel.open(tiny_bundle, threads=1) as opened:
        yield opened


def pairs_of(heads: list[Heads | None], seed: int = 0) -> list[Pair]:
    asked = zip(*pairs(len(heads), seed), heads, strict=True)
    return [Pair(source, (*prompt, *target), len(prompt), each) for source, target, prompt, each in asked]


def test_bits_do_not_depend_on_who_else_chooses(local: LocalModel) -> None:
    rng = random.Random(1)
    heads = [rng.choice([None, None, Heads(0, None), Heads(1, None), Heads(0, 3), Heads(1, 0)]) for _ in range(40)]
    asked = pairs_of(heads, 2)
    engine = local.served.engine
    alone = [as_bits(engine.score([pair])[0]) for pair in asked]
    for count in (2, 5, 16, 40):
        order = rng.sample(range(40), count)
        assert [as_bits(scored) for scored in engine.score([asked[each] for each in order])] == [
            alone[each] for each in order
        ]
    assert len({scored for pair, scored in zip(asked, alone, strict=True) if pair.heads is None}) > 1


def test_where_nobody_chooses_nobody_is_asked_for_more(local: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = local.served.engine
    fed: list[bool] = []

    class Watched:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> Any:
            fed.append(bool(feeds["choose"]))
            return self.session.run(outputs, feeds)

    monkeypatch.setattr(engine, "_scorer", Watched(engine._scorer))
    engine.score(pairs_of([None, None]))
    engine.score(pairs_of([None, Heads(1, 2)]))
    assert fed == [False, True]


def without_choice(bundle: Path) -> None:
    """Make its scorer one from before: what was a branch of the graph is in the graph."""
    model = onnx.load(bundle / "scorer.onnx", load_external_data=False)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "If":
            nodes.append(node)
            continue
        (usual,) = (each.g for each in node.attribute if each.name == "else_branch")
        nodes += [*usual.node, onnx.helper.make_node("Identity", [usual.output[0].name], [node.output[0]])]
    del model.graph.node[:], model.graph.input[-2:]
    model.graph.node.extend(nodes)
    (bundle / "scorer.onnx").write_bytes(model.SerializeToString())


def test_a_bundle_from_before_the_choice_scores_as_it_did(
    local: LocalModel, tiny_bundle: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(tiny_bundle, tmp_path / "old")
    without_choice(old)
    asked = pairs_of([None] * 12)
    with LocalModel.open(old, threads=1, verify=False) as opened:
        assert opened.served.engine.choosable_heads == (0, 0)
        found = [as_bits(each) for each in opened.served.engine.score(asked)]
    assert found == [as_bits(each) for each in local.served.engine.score(asked)]


def test_a_bundle_whose_usual_heads_its_scorer_has_not_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_bundle, tmp_path / "other")
    description = json.loads((other / "model.json").read_text())
    description["alignment"]["heads"] = [4]
    (other / "model.json").write_text(json.dumps(description))
    with pytest.raises(BundleError, match=r"scorer\.onnx has 2 layers of 4 heads, and not layer 1 of 2, head 5"):
        LocalModel.open(other, threads=1, verify=False)


@pytest.mark.parametrize(("options", "choosable", "said"), [
    ({"alignment_head": 1}, (4, 8), "alignment_head.*alignment_layer is required"),
    ({"alignment_layer": 0}, (4, 8), r"alignment_layer.*0 is outside 1\.\.4"),
    ({"alignment_layer": 5}, (4, 8), r"alignment_layer.*5 is outside 1\.\.4"),
    ({"alignment_layer": 4, "alignment_head": 9}, (4, 8), r"alignment_head.*9 is outside 1\.\.8"),
    ({"alignment_layer": -1}, (4, 8), r"-1 is outside 1\.\.4"),
    ({"alignment_layer": 1}, (0, 0), "offers no choice.*usual heads only; where the model has more, .* exported again"),
])
def test_a_choice_that_there_is_not_is_refused(
    options: dict[str, int], choosable: tuple[int, int], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        resolve_scoring(ScoreOptions(**options), describe(), choosable)  # type: ignore[arg-type]


def test_layers_and_heads_are_counted_from_one_by_callers() -> None:
    def heads(**options: Any) -> Heads | None:
        return resolve_scoring(ScoreOptions(**options), describe(), (4, 8)).heads

    assert heads() is None
    assert heads(alignment_layer=4) == Heads(3, None)
    assert heads(alignment_layer=1, alignment_head=8) == Heads(0, 7)


async def test_a_call_chooses_and_the_servers_description_says_from_what() -> None:
    engine = ArithmeticEngine()
    engine.choosable_heads = (2, 4)
    async with serving(engine) as served, AsyncClient(f"127.0.0.1:{served.server.port}", timeout=20) as client:
        (model,) = (await client.info()).models
        assert (model.alignment_layers, model.alignment_heads) == (2, 4)
        await client.score(["c d"], ["l z"], return_alignment=True, alignment_layer=2, alignment_head=3)
        assert engine.passes[-1][0].heads == Heads(1, 2)
        await client.score(["c d"], ["l z"], return_alignment=True)
        assert engine.passes[-1][0].heads is None
        with pytest.raises(InvalidInput, match=r"options\.alignment_layer: 3 is outside 1\.\.2") as refused:
            await client.score(["c d"], ["l z"], alignment_layer=3)
        assert refused.value.field == "options.alignment_layer"


async def test_the_client_sends_what_was_chosen_and_nothing_else(
    server: FakeServer, async_client: AsyncClient
) -> None:
    await async_client.score(["a"], ["b"], alignment_layer=2, alignment_head=1)
    await async_client.score(["a"], ["b"], alignment_layer=None)
    assert [call.options for call in server.servicer.calls] == [
        pb.ScoreOptions(alignment_layer=2, alignment_head=1), pb.ScoreOptions(),
    ]
