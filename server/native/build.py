"""Compile the operators: ``python server/native/build.py [OUT]``. Needs the package ``ziglang``, a C compiler."""

import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parent / "seqserve_server/kernels/libseqserve_kernels.so.1"
KERNELS = ("rounding.c", "step_attention.c", "packed_attention.c", "retain.c", "top_candidates.c")
PRODUCTS, PRODUCTS_MACHINE = "product_x86.c", "x86_64_v4+avx512vnni+amx_tile+amx_int8"
ONCE = (
    "register.c", "tensors.c", "row_operators.c", "attention_operators.c", "product.c", PRODUCTS, "moves.c",
)
LEVELS = {"v4": "x86_64_v4", "v3": "x86_64_v3", "plain": "x86_64"}  # by name in kernels.h
# No contraction, no other liberties: a value is rounded alike at every level.
FLAGS = ("-O3", "-fPIC", "-std=gnu17", "-D_GNU_SOURCE", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra",
         "-Werror", "-Wno-psabi", "-fno-sanitize=all", "-g0")
OLDEST_GLIBC = "2.28"
WHEEL_PLATFORM = f"manylinux_{OLDEST_GLIBC.replace('.', '_')}_{platform.machine()}"


def build(library: Path = LIBRARY) -> Path:
    """Compile every kernel once for each level of the processor, and link them.

    Raises:
        ImportError: there is no ``ziglang``, or this is not Linux.
        subprocess.CalledProcessError: it refuses the sources.
        OSError: nothing can be written there.
    """
    if sys.platform != "linux":
        raise ImportError("the library is made for Linux")
    import ziglang  # for the build alone

    compiler = [str(Path(ziglang.__file__).parent / "zig"), "cc"]
    machine = platform.machine()
    levels = LEVELS if machine == "x86_64" else {"plain": "baseline"}
    target = ["-target", f"{machine}-linux-gnu.{OLDEST_GLIBC}"]
    library.parent.mkdir(parents=True, exist_ok=True)
    objects = []
    jobs = [(name, level) for name in KERNELS for level in levels] + [(name, "") for name in ONCE]
    for name, level in jobs:
        made = library.with_name(f"{Path(name).stem}{level and '.'}{level}.o")
        names = [f"-DLEVEL={level}", f"-mcpu={levels[level]}"] if level else []
        if level == "v4":
            names.append("-mprefer-vector-width=512")
        if name == PRODUCTS and machine == "x86_64":
            names = [f"-mcpu={PRODUCTS_MACHINE}", "-mprefer-vector-width=512"]
        subprocess.run([*compiler, *target, *FLAGS, *names, "-c", str(HERE / name), "-o", str(made)], check=True)
        objects.append(made)
    subprocess.run([*compiler, *target, "-shared", "-s", *map(str, objects), "-lm", "-o", str(library)], check=True)
    for made in objects:
        made.unlink()
    return library


if __name__ == "__main__":
    print(build(*map(Path, sys.argv[1:])))
