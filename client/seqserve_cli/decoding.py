"""The options of the command line that say how to decode."""

import argparse
from typing import get_args

from seqserve_cli import remote
from seqserve_client import Stopping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them, in groups."""
    decoding = parser.add_argument_group("decoding")
    remote.add_lengths(decoding)
    _add_search(decoding)
    remote.add_languages(decoding)
    decoding.add_argument(
        "--max-source-tokens", type=int, metavar="N",
        help="most source tokens, special tokens included (default: the model's limit)",
    )
    decoding.add_argument(
        "--truncate", action="store_true", default=None, help="cut off what is over, where it would be refused"
    )
    decoding.add_argument(
        "--stop", action="append", metavar="TEXT",
        help="end the answer before this text; may be repeated; not with beams",
    )
    _add_rules(parser.add_argument_group("rules and draws"))
    _add_attention(parser.add_argument_group("attention"))
    _add_prefix(parser.add_argument_group("beginnings and phrases"))
    remote.add_turn(parser.add_argument_group("turns"))


def _add_search(decoding: argparse._ArgumentGroup) -> None:
    remote.add_beam_size(decoding)
    decoding.add_argument(
        "--num-hypotheses", type=int, metavar="N", help="answers to one text, at most the beam size (default: 1)"
    )
    decoding.add_argument(
        "--length-penalty", type=float, metavar="X",
        help="scores are divided by the length to this power; 0 leaves the plain sum (default: the model's)",
    )
    decoding.add_argument(
        "--stopping", choices=get_args(Stopping),
        help="when a beam search is over: as with transformers' early_stopping False, True and \"never\", or as in "
        "CTranslate2 (default: the model's)",
    )
    decoding.add_argument(
        "--patience", type=float, metavar="X",
        help="with --stopping patience, which it implies: over when X times the beam size answers have ended",
    )


def _add_rules(decoding: argparse._ArgumentGroup) -> None:
    decoding.add_argument(
        "--repetition-penalty", type=float, metavar="X",
        help="over 1 makes tokens that came before less likely (default: the model's)",
    )
    decoding.add_argument(
        "--no-repeat-ngram-size", type=int, metavar="N",
        help="no sequence of N tokens comes twice; 0 is off (default: the model's)",
    )
    decoding.add_argument(
        "--suppress-tokens", type=_ids, action="append", metavar="ID[,ID...]",
        help="a target id that is not generated, or a sequence whose last does not follow the others; may be repeated",
    )
    decoding.add_argument(
        "--sample", action=argparse.BooleanOptionalAction,
        help="draw tokens instead of taking the best, which the four below imply (default: the model's)",
    )
    decoding.add_argument(
        "--temperature", type=float, metavar="X", help="below 1 draws likely tokens more often (default: the model's)"
    )
    decoding.add_argument(
        "--top-k", type=int, metavar="N", help="draw from the N best only; 0 is all (default: the model's)"
    )
    decoding.add_argument(
        "--top-p", type=float, metavar="X",
        help="draw from the best only that are X together (default: the model's)",
    )
    decoding.add_argument(
        "--seed", type=int, metavar="N", help="draw the same again for the same text (default: a random one each)"
    )


def _ids(text: str) -> list[int]:
    """Ids between commas."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"ids between commas, not {text!r:.40}") from None


def _add_attention(attention: argparse._ArgumentGroup) -> None:
    attention.add_argument(
        "--coverage-penalty", type=float, metavar="X",
        help="put answers in order by how much of the source they attended to, too; not with --stream",
    )
    attention.add_argument(
        "--replace-unknowns", action="store_true", default=None,
        help="unknown tokens give way to the source token that they attended to most; not with --stream",
    )


def _add_prefix(beginnings: argparse._ArgumentGroup) -> None:
    beginnings.add_argument("--prefix", metavar="TEXT", help="what every answer begins with")
    beginnings.add_argument(
        "--prefix-bias", type=float, metavar="X",
        help="favour the prefix this much, over 0 and below 1, in place of forcing it",
    )
    beginnings.add_argument(
        "--return-alternatives", action="store_true", default=None,
        help="take --num-hypotheses different first tokens, behind the prefix, and complete each",
    )
    beginnings.add_argument(
        "--min-alternative-probability", type=float, metavar="P",
        help="leave out alternatives whose first token is less probable",
    )
    beginnings.add_argument(
        "--require-phrase", dest="required_phrases", action="append", metavar="TEXT",
        help="a phrase that every answer holds; needs --beam-size over 1; may be repeated",
    )
    beginnings.add_argument(
        "--ban-phrase", dest="banned_phrases", action="append", metavar="TEXT",
        help="a phrase that no answer holds; may be repeated",
    )
