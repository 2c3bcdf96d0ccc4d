"""Whole documents through both clients: taken apart, answered, put together."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import MAX_INPUTS, FakeServer, refuse
from seqserve.v1 import seq2seq_pb2
from seqserve_client import AsyncClient, Client, Document, Hypothesis, InputTooLong, InvalidInput, Result, Timing
from seqserve_client.documents import MOST_CHARACTERS, Segment, assembled, moved, segments_of, shortened
from seqserve_client.translation import Translation
from serving import serving

TEXT = """\
  A title

He left.  She stayed! Did Dr. Smith?\t
* * *
\tIndented. Twice.\r

the end"""
CAPITALS = """\
  A TITLE

HE LEFT.  SHE STAYED! DID DR. SMITH?\t
* * *
\tINDENTED. TWICE.\r

THE END"""


def result(text: str) -> Result:
    return Result([Hypothesis(text, [], [], -1.0)], "eos", 1, 1, Timing(0, 0, 0, 0, 0))


def translated(text: str, split: str = "sentences", language: str | None = "en") -> Document:
    return Translation(text, split, language).run(lambda texts: [result(each.upper()) for each in texts])


def too_long(limit: int, *, told: bool = True):  # type: ignore[no-untyped-def]
    """For ``FakeServicer.before``: refuse sources of more words than this, as the server does."""
    def check(request: seq2seq_pb2.GenerateRequest, context: grpc.ServicerContext) -> None:
        for place, source in enumerate(request.inputs):
            if (count := len(source.text.split())) > limit:
                counts = {"inputTokenCount": str(count), "maxInputTokens": str(limit)} if told else {}
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "too long", "INPUT_TOO_LONG", metadata=counts,
                       field=f"inputs[{place}].text")

    return check


def test_layout_is_kept_and_passages_say_where_everything_went(client: Client) -> None:
    document = client.translate_document(TEXT, language="en")
    assert document.text == CAPITALS
    assert [passage.source for passage in document.passages] == [
        "A title", "He left.", "She stayed!", "Did Dr. Smith?", "* * *", "Indented.", "Twice.", "the end",
    ]
    for passage in document.passages:
        assert TEXT[passage.source_start : passage.source_end] == passage.source
        assert document.text[passage.target_start : passage.target_end] == passage.target == passage.source.upper()
    assert [passage.note for passage in document.passages] == ["", "", "", "", "copied", "", "", ""]
    assert [passage.score for passage in document.passages] == [-2.0, -2.0, -2.0, -3.0, None, -1.0, -1.0, -2.0]


async def test_the_asyncio_client_gives_the_same(client: Client, async_client: AsyncClient) -> None:
    assert await async_client.translate_document(TEXT, language="en") == client.translate_document(TEXT, language="en")


def test_calls_hold_as_many_sentences_as_the_server_takes(client: Client, server: FakeServer) -> None:
    text = "".join(f"Sentence number {number}. " for number in range(50))
    assert client.translate_document(text, beam_size=2, model="capitals").text == text.upper()
    calls = server.servicer.calls
    assert sorted(len(call.inputs) for call in calls) == [2] + [MAX_INPUTS] * 6
    assert {call.options.beam_size for call in calls} == {2}
    assert {call.model for call in calls} == {"capitals"}


def test_progress_counts_characters_up_to_all_of_them(client: Client) -> None:
    seen: list[tuple[int, int]] = []
    text = TEXT * 20
    client.translate_document(text, on_progress=lambda done, whole: seen.append((done, whole)))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(text), len(text))
    assert len(seen) > 10


def test_a_line_can_be_one_by_itself(client: Client) -> None:
    document = client.translate_document(TEXT, split="lines")
    assert document.text == CAPITALS.replace("LEFT.  SHE", "LEFT. SHE")  # space inside is the model's
    assert [passage.source for passage in document.passages] == [
        "A title", "He left.  She stayed! Did Dr. Smith?", "* * *", "Indented. Twice.", "the end",
    ]


def test_nothing_to_translate_needs_no_server() -> None:
    with Client("127.0.0.1:1") as client:
        for text in ("", "\n\n", " \t\n", "* * *\n---\n"):
            assert client.translate_document(text).text == text


def test_a_sentence_over_the_limit_goes_in_parts_and_is_marked(client: Client, server: FakeServer) -> None:
    sentence = "one two three four five six seven, eight nine ten eleven twelve thirteen fourteen"
    text = f"Short.\n  {sentence}. Again.\n"
    for told in (True, False):
        server.servicer.before = too_long(4, told=told)
        document = client.translate_document(text)
        assert document.text == text.upper()
        parts = [passage for passage in document.passages if passage.note == "cut"]
        assert len(parts) >= 4
        assert " ".join(part.source for part in parts) == f"{sentence}."
        assert [passage.source for passage in document.passages if not passage.note] == ["Short.", "Again."]


async def test_the_real_servers_limit_is_kept() -> None:
    async with (
        serving(description={"max_source_length": 6}) as served,
        AsyncClient(f"127.0.0.1:{served.server.port}", timeout=20) as client,
    ):
        document = await client.translate_document("c d\n" + "c d " * 20, max_new_tokens=3)
    assert document.passages[0].note == ""
    assert {passage.note for passage in document.passages[1:]} == {"cut"}
    assert " ".join(passage.source for passage in document.passages) == " ".join(["c d"] * 21)
    assert max(len(passage.source.split()) for passage in document.passages) <= 5


async def test_the_asyncio_client_cuts_in_the_same_way(
    client: Client, async_client: AsyncClient, server: FakeServer
) -> None:
    server.servicer.before = too_long(3)
    text = "a b c d e f g h. " * 40
    document = await async_client.translate_document(text)
    assert document == client.translate_document(text)
    assert document.text == text.upper()


def test_another_refusal_names_the_sentence_and_ends_it(client: Client, server: FakeServer) -> None:
    def refuse_six(request: seq2seq_pb2.GenerateRequest, context: grpc.ServicerContext) -> None:
        for place, source in enumerate(request.inputs):
            if "six" in source.text:
                field = f"inputs[{place}].text"
                refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a bad word", "INVALID_FIELD", field=field)

    server.servicer.before = refuse_six
    with pytest.raises(InvalidInput, match=r"characters 6 to 10, 'six\.': a bad word") as caught:
        client.translate_document("Two. six. Ten.".replace("six", "\nsix"))
    assert caught.value.field == "inputs[1].text"
    with pytest.raises(InvalidInput, match="beam_size"):
        client.translate_document("Two.", beam_size=2**40)


def test_a_word_that_no_cut_makes_short_enough_is_refused() -> None:
    error = InputTooLong("7 over 1", field="inputs[0].text", metadata={"inputTokenCount": "7", "maxInputTokens": "1"})
    with pytest.raises(InputTooLong, match="characters 103 to 104"):
        shortened([Segment(3, 4, "x")], error, 100)


def test_what_is_over_a_messages_limit_is_cut_without_asking() -> None:
    text = "word, " * 20_000
    segments = segments_of(text, "sentences", None)
    assert max(len(each.text) for each in segments) <= MOST_CHARACTERS
    assert all(each.cut for each in segments)
    assert translated(text).text == text.upper()


def test_space_between_sentences_is_that_of_the_target() -> None:
    def document(text: str, *targets: str) -> str:
        answers = [
            (segment, result(target))
            for segment, target in zip(segments_of(text, "sentences", None), targets, strict=True)
        ]
        return assembled(text, answers).text

    assert document("他走了。她留下了。", "He left.", "She stayed.") == "He left. She stayed."
    assert document("He left. She stayed.", "他走了。", "她留下了。") == "他走了。她留下了。"
    assert document("他走了。她留下了。", "彼は行った。", "彼女は残った。") == "彼は行った。彼女は残った。"
    assert document("He left. She stayed.", "그는 떠났다.", "그녀는 남았다.") == "그는 떠났다. 그녀는 남았다."
    assert document("He left.  She stayed.", "他走了。", "她留下了。") == "他走了。  她留下了。"
    assert document("A. B", " Ein\nMann. ") == "Ein Mann."


def test_there_is_no_third_way_to_split() -> None:
    with pytest.raises(TypeError, match="sentences, lines"):
        segments_of("a", "words", None)


@given(
    st.text(st.sampled_from(list(" \t\n\r\x0b\u2028aB.!?。「」()1,")), max_size=60),
    st.sampled_from(["sentences", "lines"]),
)
def test_a_document_whose_answers_are_its_sentences_is_the_same(text: str, split: str) -> None:
    document = Translation(text, split, "en").run(lambda texts: [result(each) for each in texts])
    assert document.text.replace(" ", "") == text.replace(" ", "")
    assert len(document.text.splitlines()) == len(text.splitlines())
    for passage in document.passages:
        assert text[passage.source_start : passage.source_end] == passage.source == passage.target
        assert document.text[passage.target_start : passage.target_end] == passage.target
        assert len(passage.source.splitlines()) == 1


def test_a_passage_of_a_part_is_one_of_the_whole() -> None:
    whole, (first, second) = translated("a b\nc d\n"), (translated("a b\n"), translated("c d\n"))
    assert whole.passages == [*first.passages, moved(second.passages[0], 4, 4)]
