"""What the largest model that is meant to fit costs: a random one of NLLB-600M's shape, exported and served.

    python bench/scale.py [--work var/scale] [--precision int8]

Prints the largest memory of `seqserve export` and of `seqserve serve`. "Own" memory is what the process alone holds;
"resident" adds the pages of mapped files that happen to be in memory, which the system takes back at need.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from processes import running_server
from seqserve_client import Client
from seqserve_export.families.weights import stored_names
from seqserve_export.model import Transformer, TransformerConfig

SHAPE = TransformerConfig(
    source_vocab_size=256206, target_vocab_size=256206, width=1024, heads=16, head_size=64, ffn_width=4096,
    encoder_layers=12, decoder_layers=12, max_source_length=1024, max_target_length=1024, pad_id=1, eos_id=2,
    decoder_start_id=2, norm_position="pre", final_norm=True, sinusoid_order="fairseq", position_offset=2,
    embedding_scale=32.0, shared_embeddings=True, tied_output=True,
)
EVERY = 0.05
SOURCE, NEW_TOKENS = list(range(100, 120)), 24


@dataclass
class Peak:
    """Largest memory in MB."""

    own: int = 0
    resident: int = 0

    def look(self, process: int) -> None:
        """Take in what a process has now."""
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it has just ended
            return
        found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
        self.own = max(self.own, int(found.get("RssAnon", 0)) // 1024)
        self.resident = max(self.resident, int(found.get("VmRSS", 0)) // 1024)


def write_checkpoint(directory: Path) -> int:
    """Random weights in the native format; returns the file's MB. Kept where it is there already."""
    path = directory / "model.safetensors"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        random, shapes = torch.Generator().manual_seed(0), Transformer.without_values(SHAPE).state_dict()
        tensors = {}
        for name in stored_names(Transformer.without_values(SHAPE)):
            shape = shapes[name].shape
            if len(shape) == 1:
                tensors[name] = torch.full(shape, float("norm" in name and name.endswith("weight")))
            else:
                tensors[name] = torch.randn(shape, generator=random) * shape[-1] ** -0.5
        save_file(tensors, path)
        (directory / "config.json").write_text(json.dumps(SHAPE.to_dict()), encoding="utf-8")
    return path.stat().st_size // 2**20


def export(checkpoint: Path, out: Path, precision: str) -> tuple[float, Peak]:
    """Run the command to its end."""
    begun, peak = time.monotonic(), Peak()
    command = [sys.executable, "-m", "seqserve_cli", "export", str(checkpoint), str(out), "--precision", precision,
               "--force"]
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak.look(process.pid)
            time.sleep(EVERY)
    if process.returncode:
        sys.exit("scale: the export failed")
    return time.monotonic() - begun, peak


def serve(bundle: Path) -> tuple[float, float, Peak]:
    """Start a server, ask it once; seconds until ready, seconds for the answer, memory."""
    begun, peak = time.monotonic(), Peak()
    with running_server(bundle) as server, Client(server.target, timeout=120) as client:
        ready, asked = time.monotonic() - begun, time.monotonic()
        client.generate(token_ids=[SOURCE], min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
        answered = time.monotonic() - asked
        peak.look(server.process.pid)
    return ready, answered, peak


def main() -> None:
    """Print one line per stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("var/scale"), help="folder of the models (%(default)s)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "int8"))
    options = parser.parse_args()
    size = write_checkpoint(options.work / "checkpoint")
    bundle = options.work / options.precision
    seconds, peak = export(options.work / "checkpoint", bundle, options.precision)
    print(f"export   {seconds:.0f} s, own memory {peak.own} MB ({peak.own / size:.1f}x the checkpoint's {size} MB), "
          f"resident {peak.resident} MB ({peak.resident / size:.1f}x)")
    print(f"bundle   {sum(path.stat().st_size for path in bundle.rglob('*') if path.is_file()) // 2**20} MB")
    ready, answered, peak = serve(bundle)
    print(f"serve    ready after {ready:.1f} s; {NEW_TOKENS} tokens of a source of {len(SOURCE)} in {answered:.2f} s; "
          f"own memory {peak.own} MB, resident {peak.resident} MB")


if __name__ == "__main__":
    main()
