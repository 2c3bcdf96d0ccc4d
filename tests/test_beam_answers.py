"""Requests with several hypotheses through the loop: what they are answered, streamed and told."""

from arithmetic_engine import END, START
from hand_loop import HandLoop, make_limits
from scheduling import ENDLESS
from seqserve_server.decoding import search_of
from seqserve_server.decoding.search import SearchSettings
from seqserve_server.engine import RowCopy
from seqserve_server.request import Failed, Finished, FinishReason, TokensChosen


def test_a_prompt_is_fed_with_one_row() -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END], 6, beams=5, prompt=(START, 8, 9))
    hand.run()
    assert hand.engine.steps == [1, 1, 1, 5, 5, 5, 5, 5]
    assert [facts.tokens for facts in hand.facts if facts.rows] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [facts.joined for facts in hand.facts if facts.rows] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert hand.finished(number).reason is FinishReason.LENGTH
    assert hand.engine.copies[0] == RowCopy(0, 1, 0, 3), "the prompt is copied with what follows"


def test_a_stream_gets_tokens_as_soon_as_no_answer_can_take_them_back() -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END], 40, beams=2, stream=True)
    quiet = hand.submit([5, 6, END], 40, beams=2)
    hand.run()
    parts = [event.token_ids for event in hand.events if isinstance(event, TokensChosen)]
    assert {event.request_id for event in hand.events if isinstance(event, TokensChosen)} == {number}
    assert [token for part in parts for token in part] == hand.finished(number).token_ids
    assert len(parts) > 10
    assert hand.finished(quiet) == Finished(
        quiet, hand.finished(number).reason, hand.finished(number).hypotheses, hand.finished(quiet).times
    )


def test_a_hypothesis_that_is_not_a_number_fails_its_request_alone() -> None:
    hand = HandLoop()
    hand.engine.nan_fed = 16  # 14 is the best first token, 16 among the first four
    beam, greedy = hand.submit([5, 6, END], beams=4), hand.submit([5, 6, END])
    hand.run()
    assert hand.ended[beam] == Failed(beam, "the model produced a value that is not finite")
    assert hand.finished(greedy).reason is FinishReason.EOS


def test_the_best_answers_come_together_best_first() -> None:
    hand = HandLoop()
    number = hand.submit([5, 6, END], 20, beams=4, num_hypotheses=3)
    hand.run()
    scores = [each.score for each in hand.finished(number).hypotheses]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_a_failing_decoder_fails_beams_once_and_leaves_nothing() -> None:
    hand = HandLoop()
    hand.engine.broken_steps = set(range(3, 3 + 5))  # whole, and in all its parts
    numbers = [hand.submit([5, 6, END], beams=beams) for beams in (4, 12, 1)]
    hand.run()
    assert hand.ended == {number: Failed(number, "the decoder failed") for number in numbers}
    assert hand.engine.occupied == []


def test_beams_of_every_size_side_by_side_get_the_answers_of_their_own_searches() -> None:
    hand = HandLoop(make_limits(max_rows=40))
    for number in range(60):
        beams = (1, 2, 3, 4, 5, 8, 9, 12)[number % 8]
        hand.submit([3 + number % 26, number % 7 + 3, END], 4 + number % 23, beams=beams, num_hypotheses=beams)
        hand.step()
    hand.run()
    assert all(isinstance(event, Finished) for event in hand.ended.values())
    assert max(hand.engine.steps) <= 40
    assert len(hand.engine.copies) > 1000
    assert len(hand.engine.moves) > 50


def test_a_beam_of_one_is_greedy_and_copies_nothing() -> None:
    hand = HandLoop()
    for limit in (3, 5, 9):
        hand.submit(ENDLESS, limit)
    hand.run()
    assert hand.engine.copies == []
    assert search_of(SearchSettings(END, 3), [START]).candidates == 2
