"""``seqserve info``."""

import argparse
import json
from dataclasses import asdict

from seqserve_cli import exits, remote
from seqserve_client import Client, ServerInfo

DESCRIPTION = """\
Show the models of a server: name, version, family, precision, limits and decoding defaults.

examples:
  seqserve info
  seqserve info --target translate.example:50051 --json | jq '.models[0].limits'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    remote.add_target(parser)
    remote.add_security(parser)
    remote.add_timeout(parser, 10)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    security = remote.security(options)
    with remote.errors_as_one_line(options.target), Client(options.target, **security) as client:
        info = client.info(timeout=options.timeout or None)
    print(json.dumps(asdict(info), ensure_ascii=False) if options.json else "\n".join(_lines(info)))
    return exits.OK


def _lines(info: ServerInfo) -> list[str]:
    lines = [f"server {info.server_version}"]
    for model in info.models:
        accepts = "text, tokens, ids" if model.has_tokenizer else "ids only"
        lines.append(f"model {model.name}  (version {model.version}, {model.family}, {model.precision})")
        lines.append(f"  accepts                {accepts}")
        lines += [f"  {name:<22} {value}" for name, value in asdict(model.limits).items()]
        if model.has_scorer:
            lines.append(f"  alignments from        {model.alignment_source or 'its scorer'}")
        if model.alignment_layers:
            lines.append(f"  or by choice from      {model.alignment_layers} layers of {model.alignment_heads} heads")
        if model.languages:
            lines.append(f"  languages              {', '.join(model.languages)}")
        lines += [f"  default {name:<14} {value}" for name, value in model.defaults.items()]
    return lines
