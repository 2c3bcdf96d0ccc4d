"""What a process holds."""

from pathlib import Path


def resident(pid: int | str, field: str = "VmRSS") -> int:
    """KiB of a process in memory, or by another field of its status; VmHWM is the most that there ever were."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def descriptors(pid: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
