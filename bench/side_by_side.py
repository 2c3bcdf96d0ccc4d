"""Seqserve beside CTranslate2 and Hugging Face ``generate``: one model, one workload, in turns.

    make bench                                       everything, with what it needs
    .venv/bin/python bench/side_by_side.py --precision int8 --beam-size 4 --sizes 1 16
    .venv/bin/python bench/side_by_side.py --quick   a look whether it works

For every size n the peers decode batches of n in their own process, and n closed-loop clients send one source a call to
a running server. Rounds are interleaved and only the system whose turn it is may run. Ratios are taken within a round.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agreement import Agreement, compare
from comparison import Measured, Report
from machine import Usage, facts, process_seconds
from processes import System, running_server, running_system
from worker import Sources
from workload import NEW_TOKENS, SIZES, THREADS, contents

ROOT = Path(__file__).resolve().parent.parent
REPEATS = {1: 8, 8: 5, 16: 4, 64: 4}  # batches, or calls of each client, in one turn: a few seconds
BUNDLE, HUGGING_FACE, CTRANSLATE2 = "bundle", "hugging-face", "ctranslate2-float32"
HUGGING_FACE_AT = {"float32": "float32", "int8": "bfloat16"}  # PyTorch's fastest beside each of ours


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    work: Path
    peers_python: Path
    sizes: tuple[int, ...]
    rounds: int
    quick: bool
    precision: str
    beam_size: int

    @property
    def bundle(self) -> Path:
        """Ours."""
        return self.work / (BUNDLE if self.precision == "float32" else f"{BUNDLE}-{self.precision}")

    @property
    def flags(self) -> list[str]:
        """What workers are told."""
        return ["--beam-size", str(self.beam_size)]

    def repeats(self, size: int) -> int:
        """Batches in one turn."""
        return 1 if self.quick else REPEATS.get(size, 4)

    def check(self) -> None:
        """Everything is there.

        Raises:
            FileNotFoundError: with what makes it.
        """
        for path in (self.peers_python, self.bundle, *(self.work / name for name in (HUGGING_FACE, CTRANSLATE2))):
            if not path.exists():
                raise FileNotFoundError(f"{path} is missing; `make bench` makes it")


@contextlib.contextmanager
def all_systems(plan: Plan) -> Iterator[list[System]]:
    """Every system, loaded and stopped. The last one is what the others are compared with."""
    python, bundle, flags = sys.executable, plan.bundle, plan.flags
    peers = [("peers.huggingface", HUGGING_FACE, HUGGING_FACE_AT[plan.precision]),
             ("peers.ctranslate", CTRANSLATE2, plan.precision)]
    with contextlib.ExitStack() as stack:
        systems = [
            stack.enter_context(running_system([
                str(plan.peers_python), "-m", module, str(plan.work / model), "--precision", precision, *flags,
            ])) for module, model, precision in peers
        ]
        systems.append(stack.enter_context(running_system([python, "-m", "ours.inprocess", str(bundle), *flags])))
        server = stack.enter_context(running_server(bundle, "--threads", str(THREADS)))
        clients = [python, "-m", "ours.clients", server.target, *flags]
        systems.append(stack.enter_context(running_system(clients, [server.process])))
        yield systems


def measure(system: System, sources: Sources, repeats: int) -> tuple[Measured, Sources]:
    """One turn, with the processor time that went elsewhere meanwhile."""
    usage, own = Usage.now(), sum(process_seconds(process.pid) for process in system.processes)
    turn = system.turn(sources, repeats)
    after = Usage.now()
    own = sum(process_seconds(process.pid) for process in system.processes) - own
    tokens = repeats * len(sources) * NEW_TOKENS
    foreign = max(0.0, after.busy - usage.busy - own) + after.stolen - usage.stolen
    return Measured(turn.seconds, tokens / turn.seconds, own, foreign), turn.token_ids


def run(plan: Plan, systems: Sequence[System], report: Report) -> dict[str, Sources]:
    """All rounds of all sizes; returns each system's tokens for the largest size."""
    outputs: dict[str, Sources] = {}
    for size in plan.sizes:
        sources = contents(size)
        for system in systems:  # not counted: first runs allocate memory and choose kernels
            outputs[system.name] = measure(system, sources, 1)[1]
        for number in range(plan.rounds):
            # Another one begins each time, so that none always follows the same neighbour.
            first = number % len(systems)
            for system in [*systems[first:], *systems[:first]]:
                measured, _ = measure(system, sources, plan.repeats(size))
                report.add(size, system.name, measured)
                print(f"{size:3} rows  round {number + 1}  {system.name:22} {measured.tokens_per_second:7.0f} tokens/s",
                      file=sys.stderr)
    return outputs


def parse() -> Plan:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "var/bench", help="directory with the models")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32", choices=sorted(HUGGING_FACE_AT))
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one batch a turn")
    given = parser.parse_args()
    return Plan(
        given.work, given.peers_python, tuple(sorted(given.sizes)), given.rounds, given.quick, given.precision,
        given.beam_size,
    )


def main() -> int:
    """Measure, print the table, write the JSON; 1 where tokens differ from Hugging Face's without a tie."""
    plan = parse()
    try:
        plan.check()
    except FileNotFoundError as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 1
    report = Report(facts(), " ".join(sys.argv[1:]), f"{plan.precision}, beam size {plan.beam_size}")
    with all_systems(plan) as systems:
        report.describe({system.name: (system.versions, system.settings) for system in systems})
        outputs = run(plan, systems, report)
    agreements: list[Agreement] = []
    if plan.precision == "float32" and plan.beam_size == 1:  # elsewhere tokens differ by more than ties
        agreements = compare(outputs, contents(max(plan.sizes)), plan.bundle)
    text = report.markdown(agreements)
    print(text)
    result = {**report.to_json(), "agreement": [agreement.to_json() for agreement in agreements]}
    name = f"side_by_side-{plan.precision}-beam{plan.beam_size}"
    (plan.work / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (plan.work / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    return 0 if all(agreement.explained for agreement in agreements) else 1


if __name__ == "__main__":
    sys.exit(main())
