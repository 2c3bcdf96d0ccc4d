"""Pairs of a bundle in this process, and the commands that score with one; the scorer itself is made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seqserve_cli.main import main
from seqserve_server.engine import Pair, Scored
from seqserve_server.errors import InvalidRequest, NoScorer
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.ort_engine import OrtEngine
from seqserve_server.scores import Given

PAIRS: list[tuple[Given, Given]] = [
    (("token_ids", [5] * (1 + number)), ("token_ids", [6 + number] * number)) for number in range(5)
]


def made_up(engine: OrtEngine, pairs: Sequence[Pair]) -> list[Scored]:
    """Minus an eighth of each id; the n-th token attends to the n-th of the source."""
    found = []
    for pair in pairs:
        tokens = np.array(pair.target[pair.prompt :], dtype=np.float32)
        attention = np.eye(len(tokens), len(pair.source), dtype=np.float32)
        found.append(Scored((-tokens / 8).astype(np.float32), attention))
    return found


@pytest.fixture
def with_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrtEngine, "can_score", True)
    monkeypatch.setattr(OrtEngine, "score", made_up)


@pytest.mark.usefixtures("with_scorer")
def test_pairs_of_all_lengths_are_answered_in_order(tiny_bundle: Path) -> None:
    with LocalModel.open(tiny_bundle, threads=1, encode_tokens=16) as local:
        end, model = local.description.eos_id, InProcess(local)
        for _ in range(2):  # ids go on
            results = model.score(PAIRS, length_penalty=0.0, return_alignment=True)
            for number, result in enumerate(results):
                tokens = [6 + number] * number
                assert result.token_ids == tokens
                assert result.token_log_probs == [-token / 8 for token in (*tokens, end)]
                assert result.score == sum(result.token_log_probs)
                assert result.alignment is not None
                assert result.alignment.shape == (number, result.input_token_count)
        with pytest.raises(InvalidRequest, match=r"pairs\[1\].target.token_ids\[0\]"):
            model.score([PAIRS[0], (PAIRS[0][0], ("token_ids", [-1]))])
        (generated,) = model.generate("token_ids", [[5, 6]], max_new_tokens=4)
        assert generated.hypotheses


@pytest.mark.usefixtures("with_scorer")
def test_the_commands_score_with_a_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = ["--model", str(tiny_bundle), "--token-ids"]
    assert main(["score", *bundle, "--length-penalty", "0", "5 6", "8 16"]) == 0
    score = capsys.readouterr().out
    with LocalModel.open(tiny_bundle) as local:
        end = local.description.eos_id
        (answer,) = InProcess(local).generate("token_ids", [[5, 6, 7]])
    assert float(score) == pytest.approx(-(8 + 16 + end) / 8)
    assert main(["align", *bundle, "--format", "pharaoh", "5 6 7"]) == 0
    aligned = capsys.readouterr().out.split()
    assert len(aligned) == len(answer.hypotheses[0].token_ids)
    assert aligned[:3] == ["0-0", "1-1", "2-2"]
    assert main(["score", *bundle, "5", "-1"]) == 1
    assert capsys.readouterr().err.startswith("seqserve: line 1: INVALID_ARGUMENT: pairs[0].target.token_ids[0]: ")


def test_a_bundle_without_a_scorer_is_one_line(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtEngine, "can_score", False)
    with LocalModel.open(tiny_bundle) as local, pytest.raises(NoScorer):
        InProcess(local).score(PAIRS)
    assert main(["score", "--model", str(tiny_bundle), "--token-ids", "5", "6"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("seqserve: this model is served without a scorer")
    assert error.count("\n") == 1
