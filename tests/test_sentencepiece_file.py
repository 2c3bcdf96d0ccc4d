"""SentencePiece files are walked before the library, which does not survive all of them, may read them."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from marian_text_files import GOLDEN, LINES, train_pieces
from seqserve.bundle import BundleError
from seqserve.sentencepiece_file import (
    MAX_PIECE_BYTES,
    NORMAL,
    Piece,
    read_model,
    read_model_file,
    without_normaliser,
)

MODEL = (GOLDEN / "source.spm").read_bytes()


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in the wire format."""
    size, length = b"", len(content)
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def refusal(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "x.spm").write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_model_file(tmp_path / "x.spm", "here/x.spm")
    message = str(caught.value)
    assert message.startswith("here/x.spm: ")
    assert "\n" not in message
    return message


def test_a_whole_model_is_read() -> None:
    assert read_model_file(GOLDEN / "source.spm", "source.spm") == MODEL


def test_a_truncated_model_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    for size in range(len(MODEL)):
        assert "not a SentencePiece model, or a truncated one" in refusal(tmp_path, MODEL[:size])


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip file", b"{}", b"\x00" * 64, b"\xff" * 64, b"\x80\x04 pickled"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    assert "not a SentencePiece model" in refusal(tmp_path, content)


def test_a_piece_that_would_take_the_library_down_is_refused(tmp_path: Path) -> None:
    longest = field(1, field(1, b"x" * MAX_PIECE_BYTES))
    (tmp_path / "x.spm").write_bytes(MODEL + longest)
    read_model_file(tmp_path / "x.spm", "x.spm")
    message = refusal(tmp_path, MODEL + field(1, field(1, b"x" * 150_000)))
    assert message == f"here/x.spm: a piece has 150000 bytes, over the limit of {MAX_PIECE_BYTES}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^x\.spm: cannot be read: No such file or directory$"):
        read_model_file(tmp_path / "x.spm", "x.spm")


def test_pieces_come_in_the_order_of_their_numbers() -> None:
    data, pieces = read_model(GOLDEN / "source.spm", "source.spm")
    library = SentencePieceProcessor(model_proto=data)
    assert len(pieces) == library.GetPieceSize()
    assert [piece.text for piece in pieces] == [library.IdToPiece(number) for number in range(len(pieces))]
    assert [piece.kind == NORMAL for piece in pieces] == [number >= 3 for number in range(len(pieces))]


def test_a_piece_that_is_not_text_is_refused(tmp_path: Path) -> None:
    assert "not a SentencePiece model" in refusal(tmp_path, MODEL + field(1, field(1, b"\xff")))
    (tmp_path / "x.spm").write_bytes(MODEL + field(1, bytes([3 << 3 | 2, 0])))
    assert read_model(tmp_path / "x.spm", "x.spm")[1][-1] == Piece("", NORMAL)


def test_a_model_without_its_normaliser_takes_texts_as_they_are() -> None:
    data = train_pieces(LINES["source"], self_test_sample_size=2, normalization_rule_name="nmt_nfkc")
    plain = SentencePieceProcessor(model_proto=without_normaliser(data))
    assert plain.Encode("A  ﬁ", out_type=str) == ["A", "  ﬁ"]
    assert plain.Normalize(" A  ﬁ ") == " A  ﬁ "
