"""Which steps of a device are captured, over which buffers, and what is run before the first request."""


import numpy as np
import onnxruntime as ort
import pytest

from built_bundle import Built
from device_bundle import Decoding, Device, sources, write_device_bundle
from seqserve_server import device_engine, sessions
from seqserve_server.capacity import Capacity
from seqserve_server.device_engine import DeviceEngine, start_capacity
from seqserve_server.errors import StartupError
from seqserve_server.row_buckets import EAGER
from seqserve_server.served_model import EngineLimits, ServedModel
from seqserve_server.warm_up import warm_up
from variants import VARIANTS


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Of one architecture, for what no architecture changes."""
    built, directory = Built(tmp_path_factory, next(iter(VARIANTS))), tmp_path_factory.mktemp("one")
    return Device(built, directory / "bundle", write_device_bundle(built, directory / "bundle", half=False))


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers that steps are bound to be captured under, in order of their binding."""
    found: list[int] = []
    whole = sessions.run_options

    def note(graph: int) -> ort.RunOptions:
        found.append(graph)
        return whole(graph)

    monkeypatch.setattr(device_engine, "run_options", note)
    return found


def test_every_shape_has_a_graph_and_growth_gives_all_of_them_up(one: Device, numbers: list[int]) -> None:
    given = sources(50, 5)
    expected = Decoding(one.engine(), given, range(5)).steps(12)
    del numbers[:]
    engine = one.engine()
    decoding = Decoding(engine, given, range(5))
    found = [decoding.steps(4)]
    assert numbers == [1]
    engine.reserve(Capacity(5, 60, 10, (5,)))
    found.append(decoding.steps(4))
    assert numbers == [1, 2], "captured over memory that is gone"
    engine.reserve(Capacity(16, 1, 1, (16,)))
    found.append(decoding.steps(4))
    assert numbers == [1, 2, 3]
    assert (np.concatenate(found) == expected).all()


def test_what_varies_without_end_is_not_captured(one: Device, numbers: list[int]) -> None:
    words = one.description.target_vocab_size
    assert words == 50
    decoding = Decoding(one.engine(), sources(50, 3), range(3))
    for candidates, columns in ((1, 1), (2, 2), (5, 5), (8, 8), (40, 40), (60, words)):
        assert decoding.step(candidates).log_probs.shape == (3, columns)
    assert numbers == [1, 2, 3], "2, 8, and 50: there are no more tokens"
    found = decoding.step(2, logits=True)
    assert numbers[3:] == [EAGER]
    assert found.logits is not None
    shifted = found.logits - np.log(np.exp(found.logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.sort(shifted)[:, :-3:-1], found.log_probs, atol=1e-4)


def test_all_sizes_are_run_once_before_anything_else_and_leave_nothing_behind(one: Device, numbers: list[int]) -> None:
    given = sources(50, 7)
    expected = Decoding(one.engine(), given, range(7)).steps(8)
    del numbers[:]
    engine = one.engine()
    shapes = engine.prepare()
    assert [(shape.rows, shape.candidates) for shape in shapes] == [
        (rows, count) for rows in (1, 2, 4, 8, 16) for count in (2, 8, 32, 50)
    ]
    assert numbers == list(range(1, len(shapes) + 1))
    assert engine.buffers.capacity == Capacity(16, 64, 64, (16,))
    assert (Decoding(engine, given, range(7)).steps(8) == expected).all()
    assert len(numbers) == len(shapes), "nothing had to be captured later"


def test_a_server_runs_all_sizes_before_its_first_request(one: Device) -> None:
    model = ServedModel.open(one.bundle, EngineLimits(threads=1, max_rows=8), verify=False)
    assert isinstance(model.engine, DeviceEngine)
    list(warm_up(model))
    assert len(model.engine.graphs) == len(model.engine.buckets.all_rows()) * 4
    assert model.engine.buffers.capacity.rows == 8
    with pytest.raises(StartupError, match="--cache-bytes: 70000 are too few"):
        list(warm_up(ServedModel.open(one.bundle, EngineLimits(threads=1, cache_bytes=70000), verify=False)))


def test_buffers_start_as_large_as_the_budget_allows(one: Device) -> None:
    cost, model = one.engine().buffers.cost, one.description
    whole = start_capacity(model, cost, 1 << 30, 64)
    assert whole == Capacity(64, 64, 64, (64,))
    sizes = [start_capacity(model, cost, cost.bytes_of(whole.rounded()) // part, 64) for part in (2, 4, 16, 1 << 20)]
    assert sizes == [
        Capacity(64, 32, 32, (64,)), Capacity(32, 32, 32, (32,)), Capacity(8, 32, 32, (8,)), Capacity(0, 0, 0, (0,))
    ]
