"""Build hook: compiles the server's operators (server/native) into the wheel, or beside the sources if it is editable.

Where the compiler has no package for the machine, the wheel is made without them, and says so.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPT = Path("server/native/build.py")
LIBRARY = Path("server/seqserve_server/kernels/libseqserve_kernels.so.1")


class CompiledOperators(BuildHookInterface):  # type: ignore[misc]
    """Called by hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the interface's
        """Compile, and say for which machines the wheel is."""
        build = runpy.run_path(str(Path(self.root) / SCRIPT))
        try:
            build["build"](Path(self.root) / LIBRARY)
        except ImportError:
            print("no compiler package (ziglang) here: built without compiled operators", file=sys.stderr)
            return
        build_data["artifacts"].append(str(LIBRARY))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{build['WHEEL_PLATFORM']}"
