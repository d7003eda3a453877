"""BSDetector's arithmetic, answers in replies, and verdicts on pairs, beside the paper's formulas."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burnish_services.engine.base import EngineFailure
from burnish_services.engine.tokenizer import ChatMessage, Encoding
from burnish_services.rewriting.words import words as rewriting_words
from burnish_services.scoring.answering import Answer
from burnish_services.scoring.answers import extract, overlap, same, words
from burnish_services.scoring.choosing import Choice, _option_tokens, choice_of
from burnish_services.scoring.comparing import Pair, Rules, Winner, decide, flip_rate
from burnish_services.scoring.confidence import (
    Weights,
    agreement,
    combined,
    consistency,
    reflection,
    similarity_from_contradiction,
)
from burnish_services.scoring.estimating import compare, estimate
from burnish_services.scoring.losses import TurnLoss
from burnish_services.scoring.rating_logits import expected_rating
from burnish_services.scoring.reflecting import Belief


def test_the_worked_example() -> None:
    """By hand: s = (1, ½, 0, 1, 1), r = (1, 0, 0, 1, 1) and α = .8 give O = .68; verdicts `correct` and `not sure` give
    S = .75; with β = .7 that is C = .701."""
    agreements = [agreement(s, bool(r), 0.8) for s, r in zip((1, 0.5, 0, 1, 1), (1, 0, 0, 1, 1), strict=True)]
    assert agreements == pytest.approx([1.0, 0.4, 0.0, 1.0, 1.0])
    observed = consistency(agreements)
    reflected = reflection([(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    assert observed == pytest.approx(0.68)
    assert reflected == 0.75
    assert combined(observed, reflected, 0.1, Weights(0.8, 0.7)) == pytest.approx(0.701)


def test_contradiction_counts_from_both_sides_and_neutral_is_similar() -> None:
    assert similarity_from_contradiction(0.0, 0.0) == 1.0
    assert similarity_from_contradiction(0.9, 0.3) == pytest.approx(0.4)


def test_a_part_that_is_missing_leaves_its_weight_to_the_other() -> None:
    weights = Weights(beta=0.7)
    assert combined(None, 0.25, 0.9, weights) == 0.25
    assert combined(0.5, None, 0.9, weights) == 0.5
    assert combined(None, None, 0.9, weights) is None
    assert combined(None, 0.25, 0.9, Weights(beta=1.0)) == 0.25
    assert (consistency([]), reflection([])) == (None, None)


def test_the_likelihood_is_mixed_in_only_where_asked() -> None:
    assert combined(0.5, 0.5, 1.0, Weights(likelihood=0.2)) == pytest.approx(0.6)
    assert combined(0.5, 0.5, 1.0, Weights()) == 0.5


_SHARE = st.floats(0.0, 1.0)


@given(st.lists(_SHARE, max_size=5), st.lists(st.tuples(_SHARE, _SHARE), max_size=6), _SHARE, _SHARE, _SHARE, _SHARE)
def test_a_confidence_is_a_share(agreements, verdicts, likelihood, alpha, beta, weight) -> None:
    normal = [(a * b, a * (1 - b), 1 - a) for a, b in verdicts]
    found = combined(consistency(agreements), reflection(normal), likelihood, Weights(alpha, beta, weight))
    assert (found is None) == (not agreements and not verdicts)
    assert found is None or -1e-9 <= found <= 1 + 1e-9


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Two and two are four. Answer: 4", "4"),
        ("answer : no\nOn second thought.\nAnswer:\n  Yes, it is.\n\nBye!", "Yes, it is."),
        ("I think it is four.", ""),
        ("Answer:", ""),
        ("So **Answer**: 42", "42"),
        ("**Answer:** 42", "42"),
        ("_**Answer:**_ 42", "42"),
        ("Answer：42", "42"),
        ("**Answer:**\n\n42\n\nBye!", "42"),
        ("**Answer: **\n\n42", "42"),
        ("Answer: **", "**"),  # the operator
        ("Answer:__init__", "__init__"),
        ("The answers: none.", ""),
    ],
)
def test_an_answer_stands_after_the_analysis(reply: str, answer: str) -> None:
    assert extract(reply) == answer


def test_answers_are_the_same_but_for_case_spaces_and_punctuation_at_the_ends() -> None:
    assert same("Paris.", " paris ")
    assert same("New  York!", "new york")
    assert not same("3.5", "35")
    assert not same("Paris", "Paris, France")


def test_overlap_is_jaccard_of_words() -> None:
    assert overlap("the red fox", "The fox, red") == 1.0
    assert overlap("a b c d", "c d e f") == pytest.approx(2 / 6)
    assert overlap("a", "b") == 0.0
    assert (overlap("", ""), overlap("!", "?"), overlap("", "a")) == (1.0, 0.0, 0.0)
    assert overlap("of 3.5", "of 35") == pytest.approx(1 / 3)
    assert overlap("twenty-one", "twenty one") == overlap("a,b,c", "a, b, c") == overlap("- apples", "apples") == 1.0
    assert overlap("巴黎，法国", "巴黎") == 0.5
    # Scripts without spaces: each character is a word.
    assert overlap("首都是巴黎。", "巴黎") == pytest.approx(2 / 5)
    assert overlap("東京2020", "東京 2020") == 1.0
    assert 0 < overlap("กรุงเทพมหานคร", "กรุงเทพ") < 1


def test_answers_are_compared_and_failures_take_no_part() -> None:
    unread = Answer("", "hm", EngineFailure("UNPARSEABLE", "no answer"))
    same_one, other, none = compare("Paris", [Answer("paris."), Answer("It is Rome"), unread], 0.8)
    assert (same_one.exact_match, same_one.similarity, same_one.agreement) == (True, 1.0, 1.0)
    assert (other.exact_match, other.similarity, other.agreement) == (False, 0.0, 0.0)
    assert (none.similarity, none.agreement) == (None, None)


def test_an_answer_that_failed_for_the_moment_is_asked_for_again_and_not_left_out() -> None:
    verdict = Choice((0.7, 0.2, 0.1), 1.0)
    belief = Belief(TurnLoss(1, 0.5, np.array([7], np.int32), np.array([-0.5], np.float32)), (verdict, verdict))
    failures = {
        retryable: EngineFailure("ENGINE_ERROR", "a moment", retryable=retryable) for retryable in (True, False)
    }
    for retryable, failure in failures.items():
        answers = compare("Paris", [Answer("Paris"), Answer("", failure=failure)], 0.8)
        made = estimate(belief, answers, Weights(), 0.5)
        assert (made is failure) == retryable


def test_a_choice_adds_up_what_writes_the_same_answer() -> None:
    logs = [math.log(x) for x in (0.2, 0.1, 0.3, 0.2)]
    choice = choice_of(logs, [2, 1, 1])
    assert choice.probabilities == pytest.approx((0.375, 0.375, 0.25))
    assert choice.covered_mass == pytest.approx(0.8)
    assert choice_of([-math.inf, -1e6], [1, 1]) == Choice((0.5, 0.5), 0.0)


def test_an_expected_rating_has_the_scale_of_a_generated_one() -> None:
    assert expected_rating([1.0] + [0.0] * 9) == 0.0
    assert expected_rating([0.0] * 9 + [1.0]) == 10.0
    assert expected_rating([0.1] * 10) == pytest.approx(5.0)


PAIR = Pair([ChatMessage("user", "Why?")], "Because.", "It is so because of that.")


def verdict(one: tuple[float, float, float], other: tuple[float, float, float], pair: Pair = PAIR, **rules: float):
    return decide(pair, Choice(one, 0.9), Choice(other, 0.9), Rules(**rules))


def test_a_win_is_one_in_both_orders() -> None:
    # Shown second, the exchanged letters: (p(second), p(first), p(tie)).
    won = verdict((0.1, 0.8, 0.1), (0.7, 0.2, 0.1))
    assert (won.winner, won.flipped) == (Winner.SECOND, False)
    assert won.p_second == pytest.approx(0.5 * (0.85 + 0.75))
    assert [order.probabilities for order in won.orders] == [(0.1, 0.8, 0.1), (0.2, 0.7, 0.1)]
    placed = verdict((0.9, 0.1, 0.0), (0.9, 0.1, 0.0))  # whatever stands in front
    assert (placed.winner, placed.flipped, placed.p_second) == (Winner.TIE, True, 0.5)
    assert verdict((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)).winner is Winner.TIE
    assert flip_rate([won, placed, EngineFailure("TOO_LONG", "")]) == 0.5
    assert flip_rate([]) == 0.0


@given(st.tuples(_SHARE, _SHARE), st.tuples(_SHARE, _SHARE))
@example((1.0, 0.0), (2.0**-52, 0.75))  # a sum that rounds to ½ in one order and not in the other
@example((1.0, 1.0), (2.0**-52, 0.75))
def test_exchanging_the_responses_gives_one_minus_the_probability(one, other) -> None:
    first, second = ((a * b, a * (1 - b), 1 - a) for a, b in (one, other))
    exchanged = Pair(PAIR.prompt, PAIR.second, PAIR.first)
    there, back = verdict(first, second), verdict(second, first, exchanged)
    assert there.p_second == pytest.approx(1 - back.p_second, abs=1e-12)
    assert there.flipped == back.flipped
    names = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST, Winner.TIE: Winner.TIE}
    assert back.winner is names[there.winner]
    assert there.log_length_ratio == pytest.approx(-back.log_length_ratio)


def test_the_longer_response_cannot_win_beyond_the_guard() -> None:
    votes = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
    assert verdict(*votes).winner is Winner.SECOND
    guarded = verdict(*votes, max_length_ratio=3.0)
    assert (guarded.winner, guarded.length_guarded) == (Winner.TIE, True)
    assert verdict(*votes, max_length_ratio=6.5).winner is Winner.SECOND
    against = verdict((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), max_length_ratio=3.0)
    assert (against.winner, against.length_guarded) == (Winner.FIRST, False)


def test_the_same_response_twice_is_a_tie() -> None:
    assert verdict((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), Pair(PAIR.prompt, "So.", " So. ")).winner is Winner.TIE


class PutsABlankFirst:
    """Writes a blank before every text, as tokenizers of sentencepiece's kind do."""

    def encode(self, text: str) -> Encoding:
        pieces = re.findall("▁?[A-Za-z]+|▁|[0-9]|[^▁]", "▁" + text.replace(" ", "▁"))
        ids = [sum(ord(letter) << 8 * place for place, letter in enumerate(piece)) for piece in pieces]
        self.texts = {**getattr(self, "texts", {}), **dict(zip(ids, pieces, strict=True))}
        return Encoding(ids, [(0, 0)] * len(ids))

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[one] for one in ids).replace("▁", " ")


def test_an_option_is_looked_for_as_it_stands_after_the_lead_in() -> None:
    tokenizer = PutsABlankFirst()
    found = _option_tokens(tokenizer, "Answer: (", "A")  # type: ignore[arg-type]
    assert tokenizer.encode("Answer: (A").ids[-1] in found
    assert tokenizer.encode("A").ids[0] in found, "and as it stands by itself"
    (digit,) = _option_tokens(tokenizer, "Rating: (", "7")  # type: ignore[arg-type]
    assert tokenizer.decode([digit]) == "7"


def test_characters_count_as_words_where_a_script_has_no_spaces() -> None:
    assert [words(text) for text in ("not one", "snake_case", "巴黎", "東京タワー 2020", "ไทย")] == [2, 1, 2, 6, 3]
    for character in "あヶ㐀鿿豈":
        assert words(character * 3) == len(rewriting_words(character * 3)) == 3, "as the rewriting service counts them"
    votes = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
    told = verdict(*votes, Pair(PAIR.prompt, "因为。", "因为水在结冰的时候会膨胀。"), max_length_ratio=3.0)
    assert (told.winner, told.length_guarded) == (Winner.TIE, True)


def test_exactly_the_ratio_is_not_beyond_it() -> None:
    for one, other in ((3, 1), (6, 2), (9, 3)):
        pair = Pair((), " a" * other, " a" * one)
        told = decide(pair, Choice((0.1, 0.8, 0.1), 1.0), Choice((0.8, 0.1, 0.1), 1.0), Rules(3.0))
        assert (told.winner, told.length_guarded) == (Winner.SECOND, False)
    pair = Pair((), "a", "a a a a")
    told = decide(pair, Choice((0.1, 0.8, 0.1), 1.0), Choice((0.8, 0.1, 0.1), 1.0), Rules(3.0))
    assert (told.winner, told.length_guarded) == (Winner.TIE, True)
