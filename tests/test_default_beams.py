"""A server with fewer rows than the model's default beams says so when it starts."""

from typing import Any

import pytest

from arithmetic_engine import ArithmeticEngine
from seqserve.search_defaults import SearchDefaults
from seqserve_server.served_model import ServedModel
from seqserve_server.server import open_model
from serving import make_config, make_model


@pytest.mark.parametrize(("max_rows", "told"), [
    (2, ["--max-rows 2: requests get 2 beams by default, not the model's 4"]), (4, []), (64, []),
])
def test_a_default_that_the_rows_do_not_allow_is_told(
    max_rows: int, told: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(max_rows=max_rows)
    model = make_model(config, ArithmeticEngine(1 << 20), search=SearchDefaults(beam_size=4))

    def opened(*_: Any, **__: Any) -> ServedModel:
        return model

    monkeypatch.setattr(ServedModel, "open", opened)
    assert open_model(config) is model
    assert [record.getMessage() for record in caplog.records] == told
