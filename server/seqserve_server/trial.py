"""What a bundle has to do before it is trusted: answer its own golden inputs, and decode the same alone and in a batch.

``python -m seqserve_server.trial BUNDLE VERSION`` does that in a process of its own, with bounds on memory and time: a
file that makes the runtime crash ends that process, and not the server that would have loaded it.
"""

import math
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from seqserve.bundle import BundleError
from seqserve.golden import GOLDEN_FILE, TOLERANCE, Golden, read_golden
from seqserve.manifest import check_manifest
from seqserve_server.errors import ServerError
from seqserve_server.local import LocalModel
from seqserve_server.request import FinishReason

SMOKE_TOKENS = 8
CACHE_BYTES = 256 * 2**20
CPU_SECONDS = 900
SPARE_BYTES = 4 * 2**30  # of addresses, for the interpreter, the runtime, its threads and the caches
BYTES_PER_BYTE = 6  # of addresses, for each byte of the bundle: mapped, packed and unpacked, by three graphs
NICENESS = 10


def try_bundle(local: LocalModel) -> tuple[int, int]:
    """Decode golden inputs and a short request; returns how many of these there were, and tokens of that.

    Raises:
        BundleError: an answer is not the one it should be.
    """
    cases = read_golden(local.served.directory, local.description)
    for place, case in enumerate(cases):
        _try_case(local, case, f"{GOLDEN_FILE}: cases[{place}]")
    return len(cases), _smoke(local)


def _try_case(local: LocalModel, case: Golden, shown: str) -> None:
    # One more than is compared: the last one that is allowed may be forced to be the end.
    most = min(len(case.tokens) + 1, local.description.max_new_tokens)
    ended = local.generate([case.source], [case.prompt], max_new_tokens=most, min_new_tokens=0)[0]
    tokens = [*ended.token_ids, *([local.description.eos_id] if ended.reason is FinishReason.EOS else [])]
    if tuple(tokens[: len(case.tokens)]) != case.tokens:
        raise BundleError(f"{shown}: the graphs give {tokens[: len(case.tokens)]}, not {list(case.tokens)}")
    for token, found, wanted in zip(case.tokens, ended.log_probs, case.log_probs, strict=False):
        if not abs(found - wanted) <= TOLERANCE:
            raise BundleError(f"{shown}: token {token} has a log-probability of {found:.4f}, not {wanted:.4f}")


def _smoke(local: LocalModel) -> int:
    description = local.description
    limit = min(SMOKE_TOKENS, description.max_new_tokens)
    source, prompt = description.example_source, description.framing.example().prompt
    alone = local.generate([source], [prompt], max_new_tokens=limit)[0]
    pair = local.generate([source, source], [prompt, prompt], max_new_tokens=limit)
    if not all(math.isfinite(value) for value in alone.log_probs):
        raise BundleError("smoke decode: a log-probability is not finite")
    if any((other.token_ids, other.log_probs) != (alone.token_ids, alone.log_probs) for other in pair):
        raise BundleError("smoke decode: the answer changes with the batch")
    return len(alone.log_probs)


def bound_this_process(bundle_bytes: int) -> None:
    """No more addresses, processor seconds or core files than a trial needs, and behind everybody in the queue."""
    memory = SPARE_BYTES + BYTES_PER_BYTE * bundle_bytes
    for what, most in (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    os.nice(NICENESS)


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 after one line on stderr that says what is wrong."""
    directory, version = Path(arguments[0]), arguments[1]
    try:
        bound_this_process(sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))
        if check_manifest(directory) != version:
            raise BundleError(f"{directory}: changes while it is read")
        with LocalModel.open(directory, threads=1, cache_bytes=CACHE_BYTES, verify=False) as local:
            cases, tokens = try_bundle(local)
    except (BundleError, ServerError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except MemoryError:
        sys.stderr.write("more memory is needed than a trial may have\n")
        return 1
    sys.stdout.write(f"{cases} golden inputs, {tokens} tokens\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
