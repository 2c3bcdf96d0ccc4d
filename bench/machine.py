"""What ran where, and who else was using the processors: facts that belong beside every figure."""

import json
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TICK = os.sysconf("SC_CLK_TCK")
EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time since the machine started, over all cores."""

    busy: float
    stolen: float

    @classmethod
    def now(cls) -> "Usage":
        """Of the whole machine. ``stolen`` is what the host gave to other virtual machines."""
        fields = [int(field) / TICK for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _idle, _wait, interrupts, soft, stolen = fields[:8]
        return cls(user + nice + system + interrupts + soft, stolen)


def process_seconds(pid: int) -> float:
    """Processor time of a process so far, its threads included and its children not."""
    # The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def processor() -> str:
    """Model name, number of cores, and the vector extensions that decide the speed."""
    text = Path("/proc/cpuinfo").read_text()
    values = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in values.items()}
    flags = set(named.get("flags", "").split())
    return f"{named.get('model name', platform.machine())}, {os.cpu_count()} cores, " + " ".join(
        name for name in EXTENSIONS if name in flags
    )


def facts() -> dict[str, str]:
    """The machine, for the record."""
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def record(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON, the machine and the command beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"machine": facts(), "command": " ".join(sys.argv), **figures}
    path.write_text(json.dumps(whole) + "\n", encoding="utf-8")
