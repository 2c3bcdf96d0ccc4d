"""Where sentences end: written cases of many languages, and what holds for any text."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqserve_client.abbreviations import ANY, BY_LANGUAGE, NONE, abbreviations_of, code_of
from seqserve_client.breaks import cut
from seqserve_client.sentences import sentence_spans

CASES = [
    (language, marked)
    for language, marked in (
        line.split("\t")
        for line in (Path(__file__).parent / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
]
# Letters and marks that the rules know, so that random texts meet them.
TRICKY = st.text(
    st.sampled_from(list(" \t\u00a0\u3000aAzZéßж你好。！？.!?…,;:\"'“”«»„()[]（）「」12IVX-—¿¡؟۔।։abDr\u0301\u202f")),
    max_size=80,
)
LANGUAGES = st.sampled_from([None, "en", "de_DE", "fra_Latn", "ja", "hi", "el", "th", ""])


def sentences(text: str, language: str | None) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text, language)]


@pytest.mark.parametrize(("language", "marked"), CASES, ids=lambda value: value[:40])
def test_a_written_case_is_split_where_it_is_marked(language: str, marked: str) -> None:
    assert sentences(marked.replace("|", ""), language) == [part.strip() for part in marked.split("|")]


def test_there_are_cases_of_every_script_that_is_named() -> None:
    languages = [language for language, _ in CASES]
    assert len(CASES) >= 150
    assert {"en", "de", "fr", "es", "zh", "ja", "ar", "hi"} <= set(languages)
    assert sum("|" in marked for _, marked in CASES) > 100


@given(TRICKY | st.text(max_size=60), LANGUAGES)
def test_sentences_and_the_space_between_are_the_line(text: str, language: str | None) -> None:
    done = 0
    for start, end in sentence_spans(text, language):
        assert done <= start < end
        assert not text[done:start].strip()
        assert text[start:end] == text[start:end].strip()
        done = end
    assert not text[done:].strip()


@given(TRICKY, st.sampled_from(["en", "de", "zh"]))
def test_what_is_a_sentence_is_one_alone_but_for_its_start(text: str, language: str) -> None:
    """An end depends on what is before it in its own sentence only, and on the word behind."""
    spans = list(sentence_spans(text, language))
    for start, _ in spans:
        assert list(sentence_spans(text[start:], language)) == [
            (begin - start, end - start) for begin, end in spans if begin >= start
        ]


@pytest.mark.parametrize("unit", [
    ".", ". ", "Dr. ", '"a. ', "(a. ", "A. ", "a! b ", "“", "' a. ", "1. a ", "[1]", "word ", ". ((((", ".  - ",
    "x" * 50 + ".", "1.", "。」", "! »", "(1", " ", "1.1", "...?!", "A.-", "。と", "\u00a0»",
])
def test_the_work_grows_with_the_length_and_no_faster(unit: str) -> None:
    few, many = (_lines_run(partial(_split, unit * size)) for size in (500, 2000))
    assert many <= 4 * few + 100
    _split(unit * (400_000 // len(unit)))  # what is hidden in a line would take minutes here


def _split(text: str) -> None:
    list(sentence_spans(text, "de"))


def _lines_run(work: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_codes_of_all_kinds_name_the_same_language() -> None:
    assert [code_of(code) for code in ("en", "en-US", "en_XX", "eng_Latn", "EN")] == ["en"] * 5
    assert code_of("zh-Hans") == "zh"
    assert abbreviations_of("deu_Latn").ordinals
    assert abbreviations_of("xx") is NONE
    assert abbreviations_of(None) is ANY


def test_a_language_that_nobody_named_has_the_abbreviations_of_all() -> None:
    assert sentences("Dr. Meier kam. Mme. Dupont aussi.", None) == ["Dr. Meier kam.", "Mme. Dupont aussi."]
    assert sentences("Mme. Dupont est là.", "en") == ["Mme.", "Dupont est là."]


@pytest.mark.parametrize("language", BY_LANGUAGE)
def test_a_word_is_in_one_list_at_most(language: str) -> None:
    lists = BY_LANGUAGE[language]
    assert not lists.never & lists.number
    assert not lists.never & lists.rarely
    assert not lists.number & lists.rarely
    for each in lists.never | lists.number | lists.rarely:
        assert each == each.lower()
        assert not each.endswith(".")


@given(TRICKY.map(str.strip).filter(lambda text: len(text) > 1), st.integers(0, 12))
def test_parts_of_a_sentence_and_the_space_between_are_the_sentence(text: str, parts: int) -> None:
    done, count = 0, 0
    for start, end in cut(text, parts):
        assert start < end
        assert not text[done:start].strip()
        done, count = end, count + 1
    assert done == len(text)
    assert 2 <= count <= max(parts, 2)


def test_a_sentence_is_cut_at_the_best_place_near_the_middle() -> None:
    def parts(text: str, count: int) -> list[str]:
        return [text[start:end] for start, end in cut(text, count)]

    assert parts("one two three, four five six", 2) == ["one two three,", "four five six"]
    assert parts("it is so; it was not, it will be", 2) == ["it is so;", "it was not, it will be"]
    assert parts("one two three four", 2) == ["one two", "three four"]
    assert parts("一二三四，五六七八", 2) == ["一二三四，", "五六七八"]
    assert parts("abcdefgh", 4) == ["ab", "cd", "ef", "gh"]
    assert parts("aaae\u0301bbb", 2) == ["aaa", "e\u0301bbb"]
