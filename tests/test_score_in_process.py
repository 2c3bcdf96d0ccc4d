"""Pairs of a real bundle: in this process, by the commands, and from a server that decodes meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqserve_cli.main import main
from seqserve_server.errors import InvalidRequest, NoScorer
from seqserve_server.in_process import InProcess
from seqserve_server.local import LocalModel
from seqserve_server.ort_engine import OrtEngine
from test_beam_service import client_of

PAIRS: Any = [
    (("token_ids", [5 + place for place in range(1 + 3 * number)]), ("token_ids", [6 + number] * number))
    for number in range(6)
]


def told(result: Any) -> tuple[list[float], list[list[float]]]:
    """What must not depend on anything else that runs."""
    return result.token_log_probs, np.asarray(result.alignment).tolist()


def test_a_target_has_the_scores_of_being_generated_whatever_else_is_scored(tiny_bundle: Path) -> None:
    with LocalModel.open(tiny_bundle, threads=1, encode_tokens=40) as local:
        model = InProcess(local)
        sources = [source for (_, source), _ in PAIRS]
        answers = model.generate("token_ids", sources, max_new_tokens=12, return_logprobs=True)
        ended = [(source, answer.hypotheses[0]) for source, answer in zip(sources, answers, strict=True)]
        pairs: Any = [
            (("token_ids", source), ("token_ids", found.token_ids)) for source, found in ended
        ]
        together = model.score([*pairs, *PAIRS], return_alignment=True)
        for (source, found), result in zip(ended, together, strict=False):
            generated = found.token_log_probs
            assert np.allclose(result.token_log_probs[: len(generated)], generated, atol=1e-5)
            assert result.token_ids == found.token_ids
            assert result.alignment is not None
            assert result.alignment.shape == (len(found.token_ids), len(source) + 1)
            assert np.allclose(result.alignment.sum(axis=1), 1, atol=1e-5)
        alone = [model.score([pair], return_alignment=True)[0] for pair in (*pairs, *PAIRS)]
        assert [told(each) for each in together] == [told(each) for each in alone]
        with pytest.raises(InvalidRequest, match=r"pairs\[1\].target.token_ids\[0\]"):
            model.score([PAIRS[0], (PAIRS[0][0], ("token_ids", [-1]))])


async def test_a_server_scores_and_decodes_at_once_with_the_bits_of_each_alone(tiny_bundle: Path) -> None:
    sources: Any = [list(source) for (_, source), _ in PAIRS]
    targets: Any = [list(target) for _, (_, target) in PAIRS]
    with LocalModel.open(tiny_bundle) as local:
        model = InProcess(local)
        alone = [told(model.score([pair], return_alignment=True)[0]) for pair in PAIRS]
        answers = [model.generate("token_ids", [source])[0].hypotheses[0].token_ids for source in sources]
    async with client_of(tiny_bundle, max_rows=4) as client:
        (info,) = (await client.info()).models
        assert (info.has_scorer, info.alignment_source) == (True, "layer 1 of 2, mean of 2 heads")
        calls = [
            client.score(source_token_ids=sources, target_token_ids=targets, return_alignment=True) for _ in range(8)
        ]
        answered: list[Any] = await asyncio.gather(client.generate(token_ids=sources), *calls)
    generated, *scored = answered
    assert [result.hypotheses[0].token_ids for result in generated] == answers
    for results in scored:
        assert [told(each) for each in results] == alone


def test_the_commands_score_with_a_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = ["--model", str(tiny_bundle), "--token-ids"]
    assert main(["score", *bundle, "--length-penalty", "0", "5 6", "8 16"]) == 0
    score = float(capsys.readouterr().out)
    with LocalModel.open(tiny_bundle) as local:
        model = InProcess(local)
        (answer,) = model.generate("token_ids", [[5, 6, 7]], max_new_tokens=5)
        (scored,) = model.score([(("token_ids", [5, 6]), ("token_ids", [8, 16]))])
        assert model.alignment_source == "tiny: layer 1 of 2, mean of 2 heads"
    assert score == pytest.approx(sum(scored.token_log_probs), rel=1e-5)
    target = " ".join(map(str, answer.hypotheses[0].token_ids))
    assert main(["align", *bundle, "--format", "pharaoh", "5 6 7", target]) == 0
    aligned = [pair.split("-") for pair in capsys.readouterr().out.split()]
    assert [int(target) for _, target in aligned] == list(range(len(answer.hypotheses[0].token_ids)))
    assert {int(source) for source, _ in aligned} <= {0, 1, 2, 3}
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


def test_priority_and_tenant_are_checked_and_change_nothing_where_nobody_else_is(tiny_bundle: Path) -> None:
    turn = {"priority": 3, "tenant": "gold"}
    with LocalModel.open(tiny_bundle, threads=1) as local:
        model = InProcess(local)
        alone, turned = model.generate("token_ids", [[5, 6]]), model.generate("token_ids", [[5, 6]], **turn)
        assert alone[0].hypotheses == turned[0].hypotheses
        assert told(model.score(PAIRS, return_alignment=True, **turn)[1]) == told(
            model.score(PAIRS, return_alignment=True)[1]
        )
        calls: list[Any] = [
            lambda **given: model.generate("token_ids", [[5]], **given), lambda **given: model.score(PAIRS, **given),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match=r"options\.priority: 11 is outside -10\.\.10"):
                call(priority=11)
            with pytest.raises(InvalidRequest, match=r"options\.tenant: at most 64"):
                call(tenant="a b")
