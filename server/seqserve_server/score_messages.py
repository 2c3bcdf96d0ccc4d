"""Messages of the Score call to plain values and back."""

from collections.abc import Sequence

from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server.errors import InvalidRequest
from seqserve_server.messages import content_of, write_alignment
from seqserve_server.scores import Given, Score
from seqserve_server.scoring import ScoreOptions


def read_score_options(message: pb.ScoreOptions) -> ScoreOptions:
    """Unset options stay None; zero is a value like any other."""
    return ScoreOptions(**{field.name: value for field, value in message.ListFields()})


def contents_of(pairs: Sequence[pb.ScorePair]) -> list[tuple[Given, Given]]:
    """Kind and content of both sides of every pair.

    Raises:
        InvalidRequest: a side has none of the three.
    """
    found = []
    for place, pair in enumerate(pairs):
        field = f"pairs[{place}]"
        if not pair.HasField("source"):
            raise InvalidRequest(f"{field}.source", "is required")
        if not pair.HasField("target"):
            raise InvalidRequest(f"{field}.target", "is required; a target without tokens is an empty text or list")
        found.append((content_of(pair.source, f"{field}.source"), content_of(pair.target, f"{field}.target")))
    return found


def write_score(score: Score) -> pb.ScoreResult:
    """The answer to one pair."""
    return pb.ScoreResult(
        score=score.score,
        token_log_probs=score.token_log_probs,
        token_ids=score.token_ids,
        tokens=score.tokens,
        input_token_count=score.input_token_count,
        alignment=None if score.alignment is None else write_alignment(score.alignment.tolist()),
        source_tokens=score.source_tokens,
    )
