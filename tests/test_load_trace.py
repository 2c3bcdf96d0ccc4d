"""Traces: two formats, and a line number for whatever is wrong with them."""

import json
from pathlib import Path

import pytest

from seqserve_client.load_trace import TraceEntry, TraceError, read_trace


def trace(tmp_path: Path, text: str, speed: float = 1.0) -> tuple[TraceEntry, ...]:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    return read_trace(path, speed)


def test_lines_of_json_become_requests_in_order_of_time(tmp_path: Path) -> None:
    records = [
        {"offset": 1700000002.5, "text": "two dogs", "max_new_tokens": 7},
        {"offset": 1700000001, "token_ids": [5, 17]},
        {"offset": 1700000003.0},
    ]
    text = "\n\n".join(json.dumps(record) for record in records)
    assert trace(tmp_path, text) == (
        TraceEntry(0.0, [5, 17]), TraceEntry(1.5, "two dogs", 7), TraceEntry(2.0),
    )
    assert [entry.offset for entry in trace(tmp_path, text, speed=2.0)] == [0.0, 0.75, 1.0]


def test_rows_of_csv_become_the_same(tmp_path: Path) -> None:
    text = '\ufeffoffset,text,token_ids,max_new_tokens\n0.5,"a man, a\nhorse",,12\n0.25,,5 17,\n1e0,,,\n'
    assert trace(tmp_path, text) == (
        TraceEntry(0.0, [5, 17]), TraceEntry(0.25, "a man, a\nhorse", 12), TraceEntry(0.75),
    )
    assert [entry.offset for entry in trace(tmp_path, "offset\n0\n\n2\n")] == [0.0, 2.0]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "holds no request"),
        ("\n\n", 1, "holds no request"),
        ("when,text\n1,a\n", 1, "offset"),
        ("offset,text\n", 1, "holds no request"),
        ("offset,text\n0,a\n1\n", 3, "cells"),
        ("offset,text\n0,a,b\n", 2, "cells"),
        ("offset,text\n0,a\nsoon,b\n", 3, "offset must be .* not 'soon'"),
        ("offset,token_ids\n0,5 six\n", 2, "token_ids must be"),
        ("offset,speed\n0,5\n", 2, "unknown field 'speed'"),
        ('offset,text\n0,"a\n', 2, "not CSV"),
        ('{"offset": 0}\n{"offset": 1\n', 2, "not JSON"),
        ('{"offset": 0}\n[1]\n', 2, "not a JSON object"),
        ('{"offset": 0}\n\n{"text": "a"}\n', 3, "offset must be .* not None"),
        ('{"offset": -1}', 1, "offset must be"),
        ('{"offset": NaN}', 1, "offset must be"),
        ('{"offset": true}', 1, "offset must be"),
        ('{"offset": 0, "text": "a", "token_ids": [1]}', 1, "not both"),
        ('{"offset": 0, "text": " "}', 1, "text must be"),
        ('{"offset": 0, "token_ids": []}', 1, "token_ids must be"),
        ('{"offset": 0, "token_ids": [1, -1]}', 1, "token_ids must be"),
        ('{"offset": 0, "max_new_tokens": 0}', 1, "max_new_tokens must be"),
        ('{"offset": 0, "max_new_tokens": 2.5}', 1, "max_new_tokens must be"),
        ('{"offset": 0, "timestamp": 5}', 1, "unknown field 'timestamp'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(TraceError, match=rf"trace:{line}: .*{message}"):
        trace(tmp_path, text)
