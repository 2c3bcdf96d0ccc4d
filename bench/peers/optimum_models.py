"""A directory of transformers, exported by Optimum, in float32 and in its dynamic int8. In the environment of Optimum:

    python -m peers.optimum_models DIRECTORY OUT      writes OUT-float32 and OUT-int8
"""

import argparse
import sys
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

FILES = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")


def main() -> int:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    exact, rounded = (given.out.with_name(f"{given.out.name}-{precision}") for precision in ("float32", "int8"))
    model = ORTModelForSeq2SeqLM.from_pretrained(given.directory, export=True)
    model.save_pretrained(exact)
    # Its documentation's way for a processor with VNNI: weights a tensor at a time, activations as they come.
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    for name in FILES:
        ORTQuantizer.from_pretrained(exact, file_name=name).quantize(settings, save_dir=rounded, file_suffix="")
    for name in ("config.json", "generation_config.json"):
        (rounded / name).write_bytes((exact / name).read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
