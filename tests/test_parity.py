"""The proof: what passes, what is a tie and what is a miss."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers

from reference_bundle import ReferenceBundle
from seqserve.bundle import ModelDescription
from seqserve_export import conditioning, parity, proof_sources, reference
from seqserve_export.description import describe
from seqserve_export.errors import ExportError
from seqserve_export.families import LoadedCheckpoint
from seqserve_export.model import Transformer
from seqserve_export.parity_report import ParityReport
from seqserve_export.proof_sources import ProofSource
from seqserve_export.tokenizer_files import HubFile
from tiny_model import EOS, START, tiny_model

MODEL = tiny_model()
SOURCES = [
    ProofSource((5, 6, 7, EOS), (START, 7)),
    ProofSource((EOS,), (START, 8), forced_target=tuple(range(3, 40))),
    ProofSource((9, EOS), (START, 7)),
]


def prove(bundle: ReferenceBundle, sources: Sequence[ProofSource] = SOURCES) -> ParityReport:
    found = parity.prove(MODEL, bundle, sources, max_new_tokens=8, arrivals=[0, 1, 2])
    return found.with_scores(bundle, sources)


def checkpoint(model: Transformer = MODEL) -> LoadedCheckpoint:
    return LoadedCheckpoint(
        family="native", model=model, source_prefix=(), source_suffix=(EOS,), unk_id=None, default_max_new_tokens=2
    )


def described(loaded: LoadedCheckpoint) -> ModelDescription:
    return describe(loaded, "tiny", "fp32")


def test_the_model_itself_passes() -> None:
    report = prove(ReferenceBundle(MODEL))
    assert report.passed
    assert (report.sources, report.equal, report.misses, report.ties) == (3, 3, [], [])
    assert report.longest_target == 37, "the forced target counts"
    assert "MISS" not in report.table()


class Noisy(ReferenceBundle):
    """Adds to one kind of output."""

    def __init__(self, states: float = 0.0, logits: float = 0.0, scores: float = 0.0) -> None:
        super().__init__(MODEL)
        self.states, self.logits, self.scores = states, logits, scores

    def encoder_states(self, source_ids: Sequence[int], /) -> NDArray[np.float32]:
        return super().encoder_states(source_ids) + np.float32(self.states)

    def step_logits(
        self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int], last: int | None = None, /
    ) -> NDArray[np.float32]:
        return super().step_logits(source_ids, target_ids, prompt, last) + np.float32(self.logits)

    def score_targets(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /
    ) -> list[NDArray[np.float32]]:
        *others, last = super().score_targets(sources, targets, prompts)
        last[-1] += np.float32(self.scores)
        return [*others, last]


@pytest.mark.parametrize("error", [2e-4, np.nan, np.inf])
@pytest.mark.parametrize("kind", ["states", "logits", "scores"])
def test_an_error_above_the_tolerance_is_a_miss(kind: str, error: float) -> None:
    report = prove(Noisy(**{kind: error}))
    assert not report.passed
    assert report.table().count("MISS") == 1


def test_an_error_only_at_late_positions_is_seen() -> None:
    class Late(ReferenceBundle):
        def step_logits(
            self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int],
            last: int | None = None, /,
        ) -> NDArray[np.float32]:
            logits = super().step_logits(source_ids, target_ids, prompt, last)
            logits[30:] += 1.0
            return logits

    assert not prove(Late(MODEL)).passed


class OtherToken(Noisy):
    """Chooses another token at position 1 of the first source."""

    def generate(
            self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, **options: Any
        ) -> list[reference.Decoded]:
        def change(result: reference.Decoded) -> reference.Decoded:
            return dataclasses.replace(result, token_ids=[result.token_ids[0], 49, *result.token_ids[2:]])

        results = super().generate(sources, prompts, **options)
        return [
            change(result) if tuple(source) == SOURCES[0].ids else result
            for source, result in zip(sources, results, strict=True)
        ]


def test_another_token_is_a_miss_that_says_where() -> None:
    report = prove(OtherToken())
    assert not report.passed
    (miss,) = report.misses
    assert (miss.source, miss.position, miss.bundle_token) == (0, 1, 49)
    assert "source 0 at token 1: " in report.table()


def test_another_token_where_the_two_best_are_closer_than_rounding_is_a_listed_tie() -> None:
    (decoded,) = reference.greedy(MODEL, [SOURCES[0].ids], 8)
    second, best = np.sort(decoded.logits[1])[-2:]
    report = prove(OtherToken(logits=float(best - second)))  # the measured error is then as large as the gap
    assert report.misses == []
    assert [tie.position for tie in report.ties] == [1]
    assert "tie:  source 0 at token 1" in report.table()


def test_rounding_at_a_forced_target_excuses_no_other_token_where_it_was_decoded(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = (*range(10, 40),)

    class Rounded(OtherToken):
        def step_logits(
            self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int],
            last: int | None = None, /,
        ) -> NDArray[np.float32]:
            logits = super().step_logits(source_ids, target_ids, prompt, last)
            if tuple(target_ids) == forced:
                logits[1] += np.float32(100.0)
            return logits

    monkeypatch.setattr(conditioning.Conditioning, "moved", lambda *given: np.full(given[-1], 100.0))
    report = prove(Rounded(), [dataclasses.replace(SOURCES[0], forced_target=forced), *SOURCES[1:]])
    (ill,) = report.ill_conditioned
    assert (ill.source, ill.position, ill.forced) == (0, 1, True)
    assert [(miss.source, miss.position) for miss in report.misses] == [(0, 1)]
    assert "source 0 at token 1 of its forced target: error 1.0e+02" in report.table()


@pytest.mark.parametrize(("excused", "passed"), [(1, True), (2, False)])
def test_more_than_one_position_in_a_hundred_left_to_rounding_is_a_miss(
    excused: int, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = (*range(10, 40),) * 2

    class Rounded(ReferenceBundle):
        def step_logits(
            self, source_ids: Sequence[int], target_ids: Sequence[int], prompt: Sequence[int],
            last: int | None = None, /,
        ) -> NDArray[np.float32]:
            logits = super().step_logits(source_ids, target_ids, prompt, last)
            if tuple(target_ids) == forced:
                logits[:excused] += np.float32(1.0)
            return logits

    monkeypatch.setattr(conditioning.Conditioning, "moved", lambda *given: np.full(given[-1], 1.0))
    report = prove(Rounded(MODEL), [dataclasses.replace(SOURCES[0], forced_target=forced), *SOURCES[1:]])
    assert report.compared_positions == report.generated_tokens + len(forced) + len(SOURCES[1].forced_target)
    assert 100 <= report.compared_positions < 200
    assert len(report.ill_conditioned) == excused
    assert report.passed == passed
    assert report.logits_error < report.tolerance, "nothing else is wrong"
    assert report.table().count("MISS") == (not passed)
    assert f"{excused} of {report.compared_positions}" in report.table()


def test_a_different_end_is_a_miss() -> None:
    class Endless(ReferenceBundle):
        def generate(
            self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, **options: Any
        ) -> list[reference.Decoded]:
            results = super().generate(sources, prompts, **options)
            return [dataclasses.replace(result, token_ids=[*result.token_ids, 7]) for result in results]

    report = prove(Endless(MODEL))
    assert len(report.misses) == len(SOURCES)


def test_one_different_bit_in_a_mixed_batch_is_a_miss() -> None:
    class Batched(ReferenceBundle):
        def generate(
            self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, **options: Any
        ) -> list[reference.Decoded]:
            results = super().generate(sources, prompts, **options)
            if len(sources) > 1:
                shifted = [float(np.nextafter(results[2].log_probs[0], 0.0)), *results[2].log_probs[1:]]
                results[2] = dataclasses.replace(results[2], log_probs=shifted)
            return results

    report = prove(Batched(MODEL))
    assert not report.passed
    assert report.mixed_differences == [2]
    assert report.misses == []


class Longer(ReferenceBundle):
    """Has a default of at least eight tokens, as a family may set one."""

    def generate(
        self, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], /, *,
        max_new_tokens: int | None = None, min_new_tokens: int | None = None, arrivals: Sequence[int] | None = None,
    ) -> list[reference.Decoded]:
        least = 8 if min_new_tokens is None else min_new_tokens
        return super().generate(
            sources, prompts, max_new_tokens=max_new_tokens, min_new_tokens=least, arrivals=arrivals
        )


def test_a_default_of_least_tokens_stays_out_of_the_proof() -> None:
    model = tiny_model()
    model.output.weight[EOS] *= 4
    sources = proof_sources.random_sources(described(checkpoint(model)), 40)
    ends = reference.greedy(model, [source.ids for source in sources], 8)
    assert any(result.finish_reason == "eos" for result in ends), "the default would show"
    proof = parity.prove(model, Longer(model), sources, max_new_tokens=8, arrivals=list(range(len(sources))))
    assert proof.with_scores(Longer(model), sources).passed


def test_random_sources_cover_length_one_and_the_longest_and_end_with_the_end_token() -> None:
    sources = proof_sources.random_sources(described(checkpoint()), 200)
    lengths = [len(source.ids) for source in sources]
    assert (len(sources), min(lengths), max(lengths)) == (200, 1, 64)
    assert all(source.ids[-1] == EOS for source in sources)
    assert not {0, 1, 2} & {token for source in sources for token in source.ids[:-1]}
    assert [len(source.forced_target) for source in sources if source.forced_target] == [64, 64]
    assert sources == proof_sources.random_sources(described(checkpoint()), 200), "the same in every run"


def test_a_model_with_short_limits_still_gets_its_sources() -> None:
    model = tiny_model(max_source_length=3, max_target_length=2)
    sources = proof_sources.random_sources(described(checkpoint(model)), 200)
    assert {len(source.ids) for source in sources} == {1, 2, 3}


def test_sentences_are_made_up_to_the_usual_number(tmp_path: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", "a", "dog", "plays"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("a dog plays\n\nplays a cat\n")
    with_text = dataclasses.replace(checkpoint(), tokenizer=HubFile(tmp_path / "tokenizer.json"))
    sources = proof_sources.sentence_sources(described(with_text), with_text.tokenizer, tmp_path / "lines.txt")
    assert [source.ids for source in sources[:2]] == [(4, 5, 6, EOS), (6, 4, 3, EOS)]
    assert len(sources) == 200
    (tmp_path / "lines.txt").write_text("a " * 64)
    with pytest.raises(ExportError, match="line 1 has 65 tokens, the model takes 64"):
        proof_sources.sentence_sources(described(with_text), with_text.tokenizer, tmp_path / "lines.txt")


def test_sentences_need_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no tokenizer"):
        proof_sources.sentence_sources(described(checkpoint()), None, tmp_path / "lines.txt")
