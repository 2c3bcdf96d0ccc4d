"""The engine over a device's memory, by its twin here: the answers of the CPU's engine, whatever is mixed and padded.

No GPU was asked. What differs on one (kernels, captured graphs, the CUDA runtime) is what these tests cannot see.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from built_bundle import Built
from device_bundle import Decoding, Device, held, sources, write_device_bundle
from seqserve.bundle import BundleError
from seqserve_server.capacity import Capacity
from seqserve_server.decoding.search import SearchSettings, Stopping
from seqserve_server.device_engine import DeviceEngine
from seqserve_server.device_memory import DeviceArray, HostArray, HostMemory
from seqserve_server.devices import open_twin
from seqserve_server.encoder_batch import EncoderBatch
from seqserve_server.engine import Changes, Layout, Pair, RowCopy, RowMove, RowRelease, Source, StepInput
from seqserve_server.local import LocalModel
from seqserve_server.placement import Place
from seqserve_server.request import Finished
from variants import VARIANTS

LIMIT = 10
BEAMS = (1, 2, 3, 4, 8, 12)


@pytest.fixture(scope="module")
def device(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Device:
    bundle = tmp_path_factory.mktemp("device") / "bundle"
    return Device(built, bundle, write_device_bundle(built, bundle, half=False))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Of one architecture, for what no architecture changes."""
    built, directory = Built(tmp_path_factory, next(iter(VARIANTS))), tmp_path_factory.mktemp("one")
    return Device(built, directory / "bundle", write_device_bundle(built, directory / "bundle", half=False))


@pytest.fixture
def local(device: Device) -> Iterator[LocalModel]:
    with LocalModel.open(device.bundle, verify=False, threads=1) as opened:
        yield opened


def mixed(count: int, seed: int = 0) -> list[SearchSettings]:
    rng = random.Random(seed)
    return [
        SearchSettings(
            1, rng.randint(1, LIMIT), beam_size=(beams := rng.choice(BEAMS)), num_hypotheses=rng.randint(1, beams),
            length_penalty=rng.choice((0.0, 0.6, 1.0)), stopping=rng.choice(list(Stopping)),
        )
        for _ in range(count)
    ]


def told(result: Finished) -> list[tuple[list[int], list[float]]]:
    return [(each.token_ids, list(each.log_probs)) for each in result.hypotheses]


def test_answers_are_those_of_the_cpu_and_the_same_bits_alone_and_in_any_mix(device: Device, local: LocalModel) -> None:
    given = sources(device.description.source_vocab_size, 30)
    searches = mixed(30)
    with LocalModel.open(device.built.bundle, verify=False, threads=1) as reference:
        expected = reference.generate(given, searches=searches)
    alone = [told(local.generate([each], searches=[how])[0]) for each, how in zip(given, searches, strict=True)]
    for mine, theirs in zip(alone, expected, strict=True):
        assert [ids for ids, _ in mine] == [ids for ids, _ in told(theirs)]
        for (_, scores), (_, others) in zip(mine, told(theirs), strict=True):
            np.testing.assert_allclose(scores, others, atol=1e-4)
    for seed in range(2):
        rng = random.Random(seed)
        arrivals = [rng.randrange(20) for _ in given]
        together = local.generate(given, searches=searches, arrivals=arrivals)
        assert [told(result) for result in together] == alone


def test_half_precision_is_near(device: Device, tmp_path: Path) -> None:
    """All of the export's way but the proof: tokens of fp16 graphs over the twin beside those of float32."""
    write_device_bundle(device.built, tmp_path / "half", half=True)
    given = sources(device.description.source_vocab_size, 30)
    with LocalModel.open(device.built.bundle, verify=False, threads=1) as reference:
        expected = reference.generate(given, max_new_tokens=LIMIT)
    with LocalModel.open(tmp_path / "half", verify=False, threads=1) as opened:
        assert isinstance(opened.served.engine, DeviceEngine)
        found = opened.generate(given, max_new_tokens=LIMIT)
    equal = sum(a.token_ids == b.token_ids for a, b in zip(found, expected, strict=True))
    assert equal >= 27
    logits = [
        LocalModel.open(bundle, verify=False, threads=1, scorer=False).step_logits(given[2], [5, 6, 7, 8])
        for bundle in (tmp_path / "half", device.built.bundle)
    ]
    assert float(np.abs(logits[0] - logits[1]).max()) < 0.05 * float(logits[1].std())


def test_encoder_states_and_logits_are_those_of_the_cpu(device: Device, local: LocalModel) -> None:
    given = sources(device.description.source_vocab_size, 6)
    with LocalModel.open(device.built.bundle, verify=False, threads=1, scorer=False) as reference:
        for each in given:
            np.testing.assert_allclose(local.encoder_states(each), reference.encoder_states(each), atol=1e-4)
            fed = [5, 9, 11, 4]
            np.testing.assert_allclose(local.step_logits(each, fed), reference.step_logits(each, fed), atol=1e-3)


def test_a_step_writes_one_position_of_each_row_and_padding_only_rows_that_nobody_has(one: Device) -> None:
    engine = one.engine()
    decoding = Decoding(engine, sources(50, 5), [3, 0, 4, 1, 2])
    for position in range(4):
        before = held(engine)
        decoding.step()
        after = held(engine)
        assert (before["cross"] == after["cross"]).all()
        layers, rows, _, places, _ = np.nonzero(before["self"] != after["self"])
        assert set(layers.tolist()) == set(range(4))
        assert set(places[rows < 5].tolist()) == {position}
        assert set(places[rows >= 5].tolist()) <= {0}
        assert set(rows.tolist()) <= set(range(8)), "5 rows are run as 8"


def test_whoever_gets_a_row_that_padding_wrote_to_finds_nothing_of_it(one: Device) -> None:
    given = sources(50, 8)
    expected = Decoding(one.engine(), given, range(8)).steps(6)
    engine = one.engine()
    first = Decoding(engine, given[:5], [1, 0, 2, 4, 3])
    first.steps(3)
    first.release()
    assert not held(engine)["cross"].any()
    assert not held(engine)["self"][:, :5].any()
    assert (Decoding(engine, given, range(8)).steps(6) == expected).all()


def test_a_row_reads_the_place_that_the_layout_says(one: Device) -> None:
    given = sources(50, 6)
    expected = Decoding(one.engine(), given, range(6)).steps(5)
    assert (Decoding(one.engine(), given, [5, 3, 0, 1, 4, 2]).steps(5) == expected).all()


def test_a_step_may_be_run_again_as_capturing_does(one: Device) -> None:
    """Capturing a graph runs the step three times: none of them may read what another wrote."""
    engine = one.engine()
    decoding = Decoding(engine, sources(50, 3), range(3))
    decoding.steps(2)
    step = StepInput(decoding.tokens, [2] * 3, 2, decoding.layout)
    decoding.engine.reserve(decoding.need())
    found = []
    for _ in range(3):
        result = engine.step(step)
        found.append((result.log_probs.copy(), result.token_ids.copy(), held(engine)["self"]))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_part_of_a_step_has_the_bits_of_the_whole_and_touches_nobody_else(one: Device) -> None:
    engine = one.engine()
    decoding = Decoding(engine, sources(50, 11), [5, 3, 0, 1, 4, 2, 10, 9, 8, 7, 6])
    decoding.steps(3)
    decoding.engine.reserve(decoding.need())
    step = StepInput(decoding.tokens, [3] * 11, 2, decoding.layout, logits=True)
    before, controls = held(engine), {name: array.copy() for name, array in engine._controls.host.items()}
    for rows in ([0, 2, 9], [4], [1, 3, 5, 6, 7, 8, 10]):
        after, found = held(engine), engine.step_part(step, rows)
        others = [row for row in range(16) if row not in rows]
        changed = held(engine)
        np.testing.assert_array_equal(changed["self"][:, others], after["self"][:, others])
        np.testing.assert_array_equal(changed["cross"], before["cross"])
        parts = [array.copy() for array in (found.log_probs, found.token_ids, found.logits) if array is not None]
        again = one.engine()
        twin = Decoding(again, decoding.sources, decoding.places)
        twin.steps(3)
        again.reserve(twin.need())
        whole = again.step(step)
        for mine, theirs in zip(parts, (whole.log_probs, whole.token_ids, whole.logits), strict=True):
            assert theirs is not None
            np.testing.assert_array_equal(mine, theirs[rows])
        np.testing.assert_array_equal(changed["self"][:, rows], held(again)["self"][:, rows])
    for name in ("source_lengths", "readers", "back"):
        np.testing.assert_array_equal(engine._controls.host[name], controls[name])


@dataclass
class Counting(HostMemory):
    """Counts what crosses between host and device."""

    uploads: int = 0
    downloads: int = 0

    def upload(self, host: HostArray, device: DeviceArray) -> None:
        self.uploads += 1
        super().upload(host, device)

    def download(self, device: DeviceArray, host: HostArray) -> None:
        self.downloads += 1
        super().download(device, host)


def test_a_step_is_one_small_transfer_in_and_one_out(one: Device) -> None:
    memory = Counting()
    decoding = Decoding(one.engine(memory), sources(50, 5), range(5))
    memory.uploads = memory.downloads = 0
    decoding.steps(7)
    assert (memory.uploads, memory.downloads) == (7, 7)


def test_sources_that_are_the_same_are_encoded_once_and_lie_in_every_place(
    one: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = one.engine()
    engine.reserve(Capacity(4, 1, 5, (4,)))
    ran: list[int] = []
    whole = engine._encoder.run

    def count(batch: EncoderBatch, outputs: Sequence[str]) -> dict[str, DeviceArray]:
        ran.append(len(batch.lengths))
        return whole(batch, outputs)

    monkeypatch.setattr(engine._encoder, "run", count)
    engine.encode([
        Source(0, (Place(0, 0), Place(0, 2)), (5, 6, 7, 8, 1)), Source(1, (Place(0, 1),), (9, 1)),
        Source(3, (Place(0, 3),), (5, 6, 7, 8, 1)),
    ])
    assert ran == [2]
    cross = held(engine)["cross"]
    assert cross[:, 0].any()
    assert (cross[:, 0] == cross[:, 2]).all()
    assert (cross[:, 0] == cross[:, 3]).all()
    assert (cross[:, 1, :, 2:] == 0).all()


def test_rows_are_copied_and_carried_with_their_source(one: Device) -> None:
    """A hypothesis that goes on from another, then moves to another row: the answer of the one it came from."""
    source = sources(50, 6)[4]
    expected = Decoding(one.engine(), [source], [0]).steps(6)
    engine = one.engine()
    decoding = Decoding(engine, [source, source], [0, 1])
    first = [decoding.step().log_probs[:1].copy() for _ in range(3)]
    engine.copy([RowCopy(0, 1, 0, 3)])
    token = decoding.tokens[0]
    engine.change(Changes([RowRelease(0, 3)], [], [RowMove(1, 0, 3)]))
    rest = []
    layout = Layout([0], [1], [0], [2])
    for position in range(3, 6):
        found = engine.step(StepInput([token], [position], 2, layout))
        token = int(found.token_ids[0, 0])
        rest.append(found.log_probs.copy())
    assert (np.stack([*first, *rest]) == expected).all()


def test_a_step_that_does_not_fit_is_refused_before_it_runs(one: Device) -> None:
    engine = one.engine()
    decoding = Decoding(engine, sources(50, 3), range(3))
    for tokens, positions, layout in (
        ([2] * 3, [0, 0, 40], decoding.layout),
        ([2] * 17, [0] * 17, Layout([0] * 17, list(range(17)), [0] * 17, [17])),
        ([2] * 9, [0] * 9, Layout([0] * 9, list(range(9)), [0] * 9, [9])),
        ([2] * 2, [0] * 2, Layout([0] * 2, [1, 1], [0, 1], [2])),
    ):
        with pytest.raises(IndexError):
            engine.step(StepInput(tokens, positions, 2, layout))


def test_there_is_no_scorer_and_nothing_is_kept_of_sources(one: Device) -> None:
    engine = one.engine()
    assert not engine.can_score
    assert (engine.reuse.hits, engine.reuse.bytes_used) == (0, 0)
    with pytest.raises(RuntimeError, match="no scorer"):
        engine.score([Pair((5, 1), (2, 5), 1)])


def test_graphs_of_another_form_are_refused_by_name(one: Device) -> None:
    with pytest.raises(BundleError, match=r"decoder\.onnx: inputs differ .*no_keys.*readers.*Export the model again$"):
        open_twin(one.built.bundle, one.description, cache_bytes=1 << 20, max_rows=4, threads=1)
