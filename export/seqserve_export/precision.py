"""A bundle in another precision, measured against the float32 bundle that was proved: nothing about it is assumed."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from seqserve import bundle
from seqserve.bundle import ModelDescription
from seqserve_export.errors import ParityError
from seqserve_export.graphs.quantize import quantize
from seqserve_export.graphs.weights_file import WeightsFile
from seqserve_export.parity import BundleDecoder, Generated, Opener
from seqserve_export.proof_sources import ProofSource
from seqserve_export.text_scores import TextScores

GRAPHS = (bundle.ENCODER_FILE, bundle.DECODER_FILE, bundle.WEIGHTS_FILE)
SUPPRESSED_FROM = 1e9
LOGIT_SOURCES = 32  # of the sources, for the errors of teacher-forced logits


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """How far a rounded bundle is from the float32 one it was made of.

    Attributes:
        bytes_before, bytes_after: Of the graphs and their weights.
        logit_largest, logit_mean: Absolute errors of teacher-forced logits, fed the float32 bundle's tokens.
        logit_deviation: Standard deviation of the float32 logits, to read the errors by.
        tokens_equal: Part of generated tokens that are the float32 bundle's at the same place, 0 .. 1.
        sources_equal: Sources whose tokens are all equal.
        mixed_equal: Sources with the same bits alone and in mixed batches; must be all.
        texts: How alike the texts of the given sentences are; None without sentences.
    """

    precision: str
    sources: int
    bytes_before: int
    bytes_after: int
    logit_largest: float
    logit_mean: float
    logit_deviation: float
    tokens_equal: float
    sources_equal: int
    mixed_equal: int
    min_agreement: float
    texts: TextScores | None = None

    @property
    def passed(self) -> bool:
        """Whether the bundle may be written."""
        return self.mixed_equal == self.sources and self.tokens_equal >= self.min_agreement

    def table(self) -> str:
        """For people."""
        def mark(good: bool) -> str:
            return "ok" if good else "MISSED"

        megabytes = self.bytes_before / 1e6, self.bytes_after / 1e6
        texts = () if self.texts is None else (
            f"  texts of {f'{self.texts.sentences} sentences':28} BLEU {self.texts.bleu:.1f}, chrF "
            f"{self.texts.chrf:.1f} against the float32 ones",
        )
        return "\n".join((
            f"{self.precision} against the float32 graphs above",
            f"  size of the graphs                    {megabytes[0]:.1f} MB before, {megabytes[1]:.1f} MB after",
            f"  step logits (deviation {self.logit_deviation:.2f})          "
            f"largest error {self.logit_largest:.2f}, mean {self.logit_mean:.3f}",
            f"  tokens equal                          {self.tokens_equal:.1%}, at least {self.min_agreement:.1%} "
            f"asked for   {mark(self.tokens_equal >= self.min_agreement)}",
            f"  sources equal                         {self.sources_equal} of {self.sources}",
            f"  mixed batches, same bits as alone     {self.mixed_equal:10} of {self.sources}   "
            f"{mark(self.mixed_equal == self.sources)}",
            *texts,
        ))


def round_bundle(
    directory: Path, description: ModelDescription, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], min_agreement: float, open_bundle: Opener,
    progress: Callable[[str], None],
) -> PrecisionReport:
    """Replace the proved float32 graphs in ``directory``, and its ``model.json``, by rounded ones.

    Raises:
        ParityError: bits that depend on the batch, or fewer equal tokens than ``min_agreement``.
    """
    work = directory / precision
    work.mkdir()
    weights = WeightsFile(work / bundle.WEIGHTS_FILE)
    for name in (bundle.ENCODER_FILE, bundle.DECODER_FILE):
        progress(f"rounding {name}")
        model = onnx_ir.load(directory / name)
        quantize(model)
        weights.save(model, work / name)
        del model
    rounded = dataclasses.replace(description, precision=precision)
    (work / bundle.MODEL_FILE).write_text(rounded.to_json(), encoding="utf-8")
    sizes = graph_bytes(directory), graph_bytes(work)
    with open_bundle(directory, verify=False) as one, open_bundle(work, verify=False) as other:
        report = compare(
            one, other, sources, precision=precision, max_new_tokens=max_new_tokens, arrivals=arrivals,
            sizes=sizes, min_agreement=min_agreement, progress=progress,
        )
    if not report.passed:
        raise ParityError(f"the {precision} graphs miss the float32 ones; no bundle was written", report.table())
    for name in (*GRAPHS, bundle.MODEL_FILE):
        (work / name).replace(directory / name)
    shutil.rmtree(work)
    return report


def compare(
    exact: BundleDecoder, rounded: BundleDecoder, sources: Sequence[ProofSource], *, precision: str,
    max_new_tokens: int, arrivals: Sequence[int], sizes: tuple[int, int], min_agreement: float,
    progress: Callable[[str], None],
) -> PrecisionReport:
    """Decode all sources with both, and with ``rounded`` once more in mixed batches.

    Args:
        sizes: Bytes before and after.
        arrivals: The loop step at which each source joins the mixed batches.
    """
    ids = [source.ids for source in sources]
    prompts = [source.prompt for source in sources]
    expected = exact.generate(ids, prompts, max_new_tokens=max_new_tokens)
    alone: list[Generated] = []
    for number, source in enumerate(sources):
        alone += rounded.generate([source.ids], [source.prompt], max_new_tokens=max_new_tokens)
        progress(f"comparing: {number + 1} of {len(ids)} sources")
    mixed = rounded.generate(ids, prompts, max_new_tokens=max_new_tokens, arrivals=arrivals)
    errors = LogitErrors()
    for source, answer in list(zip(sources, expected, strict=True))[:LOGIT_SOURCES]:
        # Without tokens the first step is compared alone: the last target is never fed, so that any id does for it.
        fed = answer.token_ids or [0]
        errors.add(
            exact.step_logits(source.ids, fed, source.prompt), rounded.step_logits(source.ids, fed, source.prompt)
        )
    longer = sum(max(len(one.token_ids), len(other.token_ids)) for one, other in zip(expected, alone, strict=True))
    return PrecisionReport(
        precision=precision, sources=len(ids), bytes_before=sizes[0], bytes_after=sizes[1],
        logit_largest=errors.largest, logit_mean=errors.mean, logit_deviation=errors.deviation,
        tokens_equal=sum(map(_equal_tokens, expected, alone)) / longer if longer else 1.0,  # no token differs either
        sources_equal=sum(one.token_ids == other.token_ids for one, other in zip(expected, alone, strict=True)),
        mixed_equal=sum(map(_same_bits, alone, mixed)), min_agreement=min_agreement,
        texts=_compare_texts(exact, sources, expected, alone),
    )


def _compare_texts(
    bundle: BundleDecoder, sources: Sequence[ProofSource], expected: Sequence[Generated], actual: Sequence[Generated]
) -> TextScores | None:
    """Of the sources that are sentences; random ids have no texts that mean anything."""
    places = [place for place, source in enumerate(sources) if source.is_sentence]
    if not places:
        return None
    return TextScores.of(*(
        [bundle.text(answers[place].token_ids) for place in places] for answers in (expected, actual)
    ))


@dataclass
class LogitErrors:
    """Figures of logits that are seen source by source and not kept: all together are 262 MB for 32,000 tokens."""

    largest: float = 0.0
    _count: int = 0
    _errors: float = 0.0
    _sum: float = 0.0
    _squares: float = 0.0

    def add(self, exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> None:
        """Both [steps, vocabulary]. Suppressed tokens, whose logits a family makes huge, are not looked at."""
        meant = np.abs(exact) < SUPPRESSED_FROM
        exact, rounded = exact[meant], rounded[meant]
        error = np.abs(rounded - exact)
        self.largest = max(self.largest, float(error.max()))
        self._count += exact.size
        self._errors += float(error.sum(dtype=np.float64))
        self._sum += float(exact.sum(dtype=np.float64))
        self._squares += float(np.square(exact, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        """Mean absolute error."""
        return self._errors / self._count

    @property
    def deviation(self) -> float:
        """Standard deviation of the exact logits."""
        return math.sqrt(max(0.0, self._squares / self._count - (self._sum / self._count) ** 2))


def graph_bytes(directory: Path) -> int:
    """Of the graphs in a directory, with the weights beside them."""
    return sum((directory / name).stat().st_size for name in GRAPHS)


def _equal_tokens(one: Generated, other: Generated) -> int:
    return sum(a == b for a, b in zip(one.token_ids, other.token_ids, strict=False))


def _same_bits(one: Generated, other: Generated) -> bool:
    return one.token_ids == other.token_ids and one.log_probs == other.log_probs
