"""Figures of all rounds: medians, spreads, ratios within a round, as a Markdown table and as JSON. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agreement import Agreement
from spread import Spread, table
from watch import Memory

DISTURBED = 0.05  # foreign processor time, as a part of a system's own, from which a turn is worth a warning


@dataclass(frozen=True)
class Measured:
    """One turn.

    Attributes:
        own: Processor seconds of the system's processes.
        foreign: Processor seconds of everything else on the machine, and of other virtual machines.
    """

    seconds: float
    tokens_per_second: float
    own: float
    foreign: float


@dataclass
class Report:
    """Collects turns; the last system described is the one that the others are compared with.

    Attributes:
        machine: Facts.
        flags: Of the command.
        workload: What was decoded, for people.
        memory: Of each system's process at the end; of a server's alone where there are clients beside it.
    """

    machine: dict[str, str]
    flags: str
    workload: str
    systems: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)
    turns: dict[int, dict[str, list[Measured]]] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)

    def describe(self, systems: dict[str, tuple[dict[str, str], str]]) -> None:
        """Versions and settings of every system, in table order."""
        self.systems = systems

    def add(self, size: int, system: str, measured: Measured) -> None:
        """One turn of one round; rounds come in order."""
        self.turns.setdefault(size, {name: [] for name in self.systems})[system].append(measured)

    def speed(self, size: int, system: str) -> Spread:
        """Tokens per second."""
        return Spread.of([turn.tokens_per_second for turn in self.turns[size][system]])

    def ratio(self, size: int, system: str) -> Spread:
        """How many times faster the last system is, round by round."""
        ours = self.turns[size][list(self.systems)[-1]]
        theirs = self.turns[size][system]
        return Spread.of([a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, theirs, strict=True)])

    def disturbed(self) -> list[str]:
        """Turns during which something else ran, one line each."""
        return [
            f"{size} rows, round {number}, {name}: {turn.foreign:.2f} s of {turn.own:.2f} s"
            for size, systems in self.turns.items() for name, turns in systems.items()
            for number, turn in enumerate(turns, 1) if turn.foreign > DISTURBED * turn.own
        ]

    def markdown(self, agreements: Sequence[Agreement]) -> str:
        """The table, and all that one needs to read it."""
        subject = list(self.systems)[-1]
        lines = [f"| rows | system | tokens/s, median (min - max) | {subject} is faster by |", "|---|---|---|---|"]
        for size in self.turns:
            for name in self.systems:
                ratio = "" if name == subject else self.ratio(size, name).text(2) + " x"
                lines.append(f"| {size} | {name} | {self.speed(size, name).text(0)} | {ratio} |")
        rounds = max(len(turns) for systems in self.turns.values() for turns in systems.values())
        lines += [
            "", *self._memory_lines(), f"{rounds} interleaved rounds; {self.workload}, end to end (encoder included); "
            "tokens are those that each system generated, end tokens not counted.",
            f"Machine: {'; '.join(self.machine.values())}.",
            f"Command: `{' '.join(['bench/side_by_side.py', self.flags]).strip()}`.",
        ]
        for name, (versions, settings) in self.systems.items():
            lines.append(f"{name}: {', '.join(f'{key} {value}' for key, value in versions.items())}; {settings}.")
        lines += [agreement.text for agreement in agreements]
        disturbed = self.disturbed()
        lines += [f"DISTURBED, {len(disturbed)} turns with over {DISTURBED:.0%} of their time spent by others:"] * bool(
            disturbed
        ) + [f"- {line}" for line in disturbed[:10]]
        return "\n".join(lines)

    def _memory_lines(self) -> list[str]:
        """Most resident ever, mapped files included, and what the process alone holds at the end."""
        if not self.memory:
            return []
        rows = [[name, f"{memory.peak:.0f}", f"{memory.own:.0f}"] for name, memory in self.memory.items()]
        return [table(["system", "most resident ever, MB", "its own at the end, MB"], rows), ""]

    def to_json(self) -> dict[str, Any]:
        """Everything, turn by turn."""
        return {
            "machine": self.machine,
            "flags": self.flags,
            "workload": self.workload,
            "memory": {name: asdict(memory) for name, memory in self.memory.items()},
            "systems": {name: {"versions": v, "settings": s} for name, (v, s) in self.systems.items()},
            "turns": {
                size: {name: [asdict(turn) for turn in turns] for name, turns in systems.items()}
                for size, systems in self.turns.items()
            },
        }
