"""What the page gets: results, errors and models as JSON."""

import json
from dataclasses import asdict
from typing import Any

from seqserve_client import Chunk, Result, SeqserveError

STATUS_BY_CODE = {
    "INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404, "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}


def line(record: dict[str, Any]) -> bytes:
    """A record of a stream. The line separators of Unicode are escaped with all else that is not ASCII."""
    return json.dumps(record).encode() + b"\n"


def status_of(error: SeqserveError) -> int:
    """The HTTP status for an error; 502 for what the server is to blame for."""
    return STATUS_BY_CODE.get(error.code.name, 502)


def error_record(error: SeqserveError) -> dict[str, Any]:
    """An error as the page shows it."""
    return {
        "code": error.code.name, "reason": error.reason, "message": str(error), "field": error.field,
        "retry_after": error.retry_after, "request_id": error.request_id,
    }


def result_record(result: Result) -> dict[str, Any]:
    """An answer. Seeds are texts: they have up to 64 bits, and a browser's numbers 53."""
    return {**asdict(result), "seed": None if result.seed is None else str(result.seed)}


def chunk_records(chunk: Chunk) -> list[dict[str, Any]]:
    """The lines for one message of a stream."""
    records: list[dict[str, Any]] = []
    if chunk.text or chunk.token_ids:
        records.append({"type": "chunk", "text": chunk.text, "token_ids": chunk.token_ids})
    if chunk.result is not None:
        records.append({"type": "result", "result": result_record(chunk.result)})
    return records
