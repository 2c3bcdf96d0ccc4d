"""A trained directory of transformers as a CTranslate2 directory, by CTranslate2's own converter.

    .venv-peers/bin/python bench/peers/convert_trained.py DIRECTORY OUT

The converter reads settings that transformers 5 no longer has; they are put back, with the values of the classes. It
takes T5's scaled outputs from ``tie_word_embeddings``, which transformers 5 makes true for mT5 too, whose outputs are
not scaled: for mT5 the switch is turned off once the model is loaded.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter

SETTINGS = {
    "bart": {"normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True},
    "mbart": {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": True},
    "pegasus": {"normalize_before": True, "add_final_layer_norm": True, "normalize_embedding": False},
}


class Converter(TransformersConverter):  # type: ignore[misc]
    """CTranslate2's own."""

    def load_model(self, *given: Any, **options: Any) -> Any:
        """By transformers, with the switch that the converter takes for scaled outputs."""
        model = super().load_model(*given, **options)
        if model.config.model_type == "mt5":
            model.config.tie_word_embeddings = False
        return model


def main() -> None:
    """Convert one directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(shutil.copytree(options.directory, Path(name) / "model"))
        path = copy / "config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.update(SETTINGS.get(settings["model_type"], {}))
        path.write_text(json.dumps(settings), encoding="utf-8")
        Converter(str(copy)).convert(str(options.out), force=True)


if __name__ == "__main__":
    main()
