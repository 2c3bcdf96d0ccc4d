"""Seqserve beside CTranslate2, Optimum and Hugging Face ``generate``: one model, one workload, in turns.

    make bench                                       everything, with what it needs
    .venv/bin/python bench/side_by_side.py --precision int8 --beam-size 4 --sizes 1 16
    .venv/bin/python bench/side_by_side.py --model demo --data DIR
    .venv/bin/python bench/side_by_side.py --quick   a look whether it works

For every size n the peers decode batches of n in their own process, and n closed-loop clients send one source a call to
a running server. Rounds are interleaved and only the system whose turn it is may run. Ratios are taken within a round.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

import speed_plot
from agreement import REFERENCE, Agreement, compare
from comparison import Measured, Report
from machine import Usage, facts, process_seconds
from multi30k import sentences
from processes import System
from rivals import MODELS, PRECISIONS, Field
from watch import Memory
from worker import Sources
from workload import SIZES, Task, contents

ROOT = Path(__file__).resolve().parent.parent
# Batches, or calls of each client, in one turn: a few seconds.
REPEATS = {
    "random": {1: 8, 8: 5, 16: 4, 64: 4}, "demo": {1: 60, 8: 24, 16: 16, 64: 8}, "grown": {1: 16, 8: 8, 16: 6, 64: 4},
}


@dataclass(frozen=True)
class Plan:
    """What to measure; ``texts`` are the demo model's sentences as ids."""

    model: str
    field: Field
    sizes: tuple[int, ...]
    rounds: int
    quick: bool
    texts: Sources
    plots: Path

    @property
    def task(self) -> Task:
        """Of the model."""
        return self.field.model.task

    def batches(self, size: int) -> list[Sources]:
        """One turn's. The random model's are all the same, sentences are others each time."""
        count = 1 if self.quick else REPEATS[self.model].get(size, 4)
        if not self.task.natural:
            return [contents(size)] * count
        return [[self.texts[(number * size + place) % len(self.texts)] for place in range(size)]
                for number in range(count)]

    @property
    def name(self) -> str:
        """Of the files that hold the results."""
        model = "" if self.model == "random" else f"-{self.model}"
        return f"side_by_side{model}-{self.field.precision}-beam{self.field.beam_size}{'-quick' * self.quick}"


def measure(system: System, batches: list[Sources]) -> tuple[Measured, Sources]:
    """One turn, with the processor time that went elsewhere meanwhile."""
    usage, own = Usage.now(), sum(process_seconds(process.pid) for process in system.processes)
    turn = system.turn(batches)
    after = Usage.now()
    own = sum(process_seconds(process.pid) for process in system.processes) - own
    tokens = sum(map(len, turn.token_ids))
    foreign = max(0.0, after.busy - usage.busy - own) + after.stolen - usage.stolen
    return Measured(turn.seconds, tokens / turn.seconds, own, foreign), turn.token_ids


def run(plan: Plan, systems: Sequence[System], report: Report) -> dict[str, Sources]:
    """All rounds of all sizes; returns each system's tokens for the first batch of the largest size."""
    outputs: dict[str, Sources] = {}
    for size in plan.sizes:
        batches = plan.batches(size)
        for system in systems:  # not counted: first runs allocate memory and choose kernels
            outputs[system.name] = measure(system, batches[:1])[1]
        for number in range(plan.rounds):
            # Another one begins each time, so that none always follows the same neighbour.
            first = number % len(systems)
            for system in [*systems[first:], *systems[:first]]:
                measured, _ = measure(system, batches)
                report.add(size, system.name, measured)
                print(f"{size:3} rows  round {number + 1}  {system.name:22} {measured.tokens_per_second:7.0f} tokens/s",
                      file=sys.stderr)
    report.memory = {system.name: Memory.of(system.processes[0].pid) for system in systems}
    return outputs


def parse() -> Plan:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="random")
    parser.add_argument("--data", type=Path, help="folder with test_2016_flickr.en or its .gz, for models of sentences")
    parser.add_argument("--work", type=Path, default=ROOT / "var", help="directory with bench/ and the demo bundles")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("--optimum-python", type=Path, default=ROOT / ".venv-optimum/bin/python")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--plots", type=Path, default=ROOT / "docs/images", help="folder for the bars")
    parser.add_argument("--quick", action="store_true", help="one batch a turn, one round")
    given = parser.parse_args()
    natural = MODELS[given.model].task.natural
    if natural and given.data is None:
        parser.error(f"--model {given.model} needs --data")
    if given.precision not in MODELS[given.model].bundle:
        parser.error(f"--model {given.model} is there in {', '.join(MODELS[given.model].bundle)} only")
    texts: Sources = []
    if natural:
        tokenizer = Tokenizer.from_file(str(ROOT / "demo/en-de/tokenizer.json"))
        texts = [tokenizer.encode(text, add_special_tokens=False).ids for text in sentences(given.data, "en")]
    field = Field(
        MODELS[given.model], given.precision, given.beam_size, given.work, given.peers_python, given.optimum_python
    )
    return Plan(
        given.model, field, tuple(sorted(given.sizes)), 1 if given.quick else given.rounds, given.quick, texts,
        given.plots,
    )


def main() -> int:
    """Measure, print the table, write JSON; 1 where tokens differ from Hugging Face's without a tie."""
    plan = parse()
    field = plan.field
    try:
        field.check()
    except FileNotFoundError as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 1
    search = "greedy" if field.beam_size == 1 else f"{field.beam_size} beams"
    report = Report(facts(), " ".join(sys.argv[1:]), f"{field.model.title}, {search}, {field.precision}")
    with field.running() as systems:
        report.describe({system.name: (system.versions, system.settings) for system in systems})
        outputs = run(plan, systems, report)
    agreements: list[Agreement] = []
    # Elsewhere tokens differ by more than ties.
    if field.precision == "float32" and field.beam_size == 1 and REFERENCE in outputs:
        exact = {name: found for name, found in outputs.items() if "bfloat16" not in name}
        agreements = compare(exact, plan.batches(max(plan.sizes))[0], field.bundle, plan.task)
    text = report.markdown(agreements)
    print(text)
    result = {**report.to_json(), "agreement": [agreement.to_json() for agreement in agreements]}
    stem = field.work / "bench" / plan.name
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    speed_plot.draw(report, stem.with_suffix(".png") if plan.quick else plan.plots / f"{plan.name}.png")
    return 0 if all(agreement.explained for agreement in agreements) else 1


if __name__ == "__main__":
    sys.exit(main())
