"""How a new prompt is found in a reply, and what it and its answer must satisfy."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.rewriting.validation import (
    Original,
    Rejected,
    Rejection,
    Rules,
    check_prompt,
    check_response,
    find_prompt,
    lead_in_after,
    repetition,
    unquote,
)
from burnish_services.rewriting.words import OwnWords

OLD = Original(
    prompt="Elucidate the thermodynamic rationale for the buoyancy of ice.",
    neighbors=("How long does it take to freeze a litre of water?",),
    own_words=OwnWords(
        "Here are some instructions: one. Improve this instruction and say why. "
        "Write it so that it is easier to understand and to learn from."
    ),
)
PROMPT = "Why does ice float on water?"


def prompt_rejection(reply: str, *, finish: str = "stop", original: Original = OLD, **rules) -> Rejection | None:
    try:
        check_prompt(reply, finish, original, Rules(**rules))
    except Rejected as rejected:
        return rejected.rejection
    return None


def response_rejection(reply: str, *, finish: str = "stop", original: Original = OLD, **rules) -> Rejection | None:
    try:
        check_response(reply, finish, PROMPT, original, Rules(**rules))
    except Rejected as rejected:
        return rejected.rejection
    return None


@pytest.mark.parametrize(
    "reply",
    [
        "NEW PROMPT: Why does ice float?",
        "The words are rare.\n\nNEW PROMPT:\nWhy does ice float?",
        "**New prompt:** Why does ice float?",
        "**NEW PROMPT**: “Why does ice float?”",
        "### New Prompt\n\nWhy does ice float?",
        "4. Final new prompt: 'Why does ice float?'",
        "> NEW PROMPT : Why does ice float?",
        'So I write this. NEW PROMPT: "Why does ice float?"',
        "NEW PROMPT: Draft one.\nHm, better:\nNEW PROMPT: Why does ice float?  ",
        "NEW PROMPT：Why does ice float?",
    ],
)
def test_a_prompt_is_found_behind_the_last_marker(reply: str) -> None:
    assert find_prompt(reply) == "Why does ice float?"


@pytest.mark.parametrize("reply", ["Why does ice float?", "", "Here is a new prompt for you, Why does ice float?"])
def test_without_a_marker_nothing_is_found(reply: str) -> None:
    assert find_prompt(reply) is None
    assert prompt_rejection(reply) is Rejection.NO_MARKER


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ('"Say hello."', "Say hello."),
        ("'Say hello.'", "Say hello."),
        ("„Sag hallo.“", "Sag hallo."),
        ("**Say hello.**", "Say hello."),
        ('**"Say hello."**', "Say hello."),
        ("**Task:** Write a poem.", "**Task:** Write a poem."),
        ("Write a poem. **Short.**", "Write a poem. **Short.**"),
        # Quotes that belong to the text stay.
        ('"Hello" and "bye": which is ruder?', '"Hello" and "bye": which is ruder?'),
        ('Translate "hello"', 'Translate "hello"'),
        ('"', '"'),
    ],
)
def test_one_pair_of_quotes_around_everything_goes(text: str, bare: str) -> None:
    assert unquote(text) == bare


def test_a_good_prompt_passes_as_it_is() -> None:
    assert check_prompt(f"NEW PROMPT: {PROMPT}", "stop", OLD, Rules()) == PROMPT


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("NEW PROMPT:", Rejection.EMPTY),
        ("NEW PROMPT: ''", Rejection.EMPTY),
        ("NEW PROMPT: Why?", Rejection.TOO_SHORT),
        ("NEW PROMPT: " + "Why does ice float? " * 3 + "x" * 4000, Rejection.TOO_LONG),
        ("NEW PROMPT: Explain the buoyancy of [insert substance] in water.", Rejection.LEAKED),
        ("NEW PROMPT: Describe <your topic here> in simple words.", Rejection.LEAKED),
        ("NEW PROMPT: Describe {{ topic }} in simple words.", Rejection.LEAKED),
        ("NEW PROMPT: Hello<|im_end|> and more of it", Rejection.LEAKED),
        ("NEW PROMPT: Why does ice float? It is a new prompt: enjoy", Rejection.LEAKED),
        ("NEW PROMPT: Ice floats, it is easier to understand that than this.", Rejection.LEAKED),
        ("NEW PROMPT: Ice floats on the sea. Improve this instruction and say why.", Rejection.LEAKED),
        ("NEW PROMPT: elucidate the thermodynamic rationale for the buoyancy of ICE", Rejection.COPY),
        ("NEW PROMPT: How long does it take to freeze a litre of water?", Rejection.COPY),
        ("NEW PROMPT: Почему лёд плавает на воде? Объясни простыми словами.", Rejection.LANGUAGE),
        ("NEW PROMPT: I'm sorry, but I cannot rewrite this instruction.", Rejection.REFUSAL),
        ("NEW PROMPT: " + "Why does ice float on water? " * 12, Rejection.DEGENERATE),
    ],
)
def test_a_bad_prompt_is_rejected_with_its_reason(reply: str, expected: Rejection) -> None:
    assert prompt_rejection(reply) is expected


def test_a_reply_that_was_cut_off_is_rejected_even_with_a_marker() -> None:
    assert prompt_rejection(f"NEW PROMPT: {PROMPT}", finish="length") is Rejection.TRUNCATED
    assert response_rejection("Because it is lighter than", finish="length") is Rejection.TRUNCATED


def test_a_prompt_may_ask_an_expert_why_we_cannot() -> None:
    assert prompt_rejection("NEW PROMPT: As an AI ethicist, explain why we cannot trust a model blindly.") is None
    assert prompt_rejection("NEW PROMPT: As an AI ethicist, say why society is unable to agree.") is None


def test_a_placeholder_of_the_original_may_stay() -> None:
    template = Original(prompt="Fill in this letter: Dear [your name], thanks for [insert reason].")
    assert prompt_rejection("NEW PROMPT: Complete this short note: Dear [your name], bye.", original=template) is None


def test_words_of_ours_may_stay_where_they_are_also_the_material_s() -> None:
    same = Original(prompt="Improve this instruction and say why: turn on.", own_words=OLD.own_words)
    assert (
        prompt_rejection("NEW PROMPT: Improve this instruction and say why: push down a toaster.", original=same)
        is None
    )


def test_words_of_our_examples_are_only_found_in_long_runs_or_whole_sentences() -> None:
    own = OwnWords(
        examples="Write a Python function that sorts a list of names by their last letter. Why do owls hunt at night? "
        "Why do cats purr?"
    )
    assert own.found_in("Write a Python function that counts.", "") is None
    assert own.found_in("Well: why do owls hunt at night", "") == "why do owls hunt at night"
    assert own.found_in("Why do cats purr?", "") is None, "as anybody may ask"
    assert own.found_in("It is a Python function that sorts a list of names by their last name", "") is not None


@pytest.mark.parametrize(
    ("reply", "finish", "lead_in"),
    [
        ("It is hard.\nNEW PROMPT: Why?", "stop", ""),
        ("It is hard because its words are rare.", "stop", "It is hard because its words are rare.\nNEW PROMPT:"),
        ("", "stop", "NEW PROMPT:"),
        ("It is hard because", "length", "NEW PROMPT:"),
        ("It is hard.\n\nThe answer is 7.", "stop", "NEW PROMPT:"),
    ],
)
def test_after_a_reply_without_a_marker_the_marker_is_written_for_the_model(
    reply: str, finish: str, lead_in: str
) -> None:
    assert lead_in_after(reply, finish) == lead_in


def test_rules_move_the_bounds() -> None:
    assert prompt_rejection("NEW PROMPT: Why?", min_prompt_chars=4) is None
    assert prompt_rejection(f"NEW PROMPT: {PROMPT}", max_prompt_chars=10) is Rejection.TOO_LONG
    almost = "NEW PROMPT: Elucidate the thermodynamic rationale for the buoyancy of wood."
    assert prompt_rejection(almost) is None
    assert prompt_rejection(almost, max_similarity=0.8) is Rejection.COPY
    russian = "NEW PROMPT: Почему лёд плавает на воде?"
    assert prompt_rejection(russian, allow_language_change=True) is None


def test_a_good_answer_passes_stripped() -> None:
    assert check_response("  It is lighter.\n", "stop", PROMPT, OLD, Rules()) == "It is lighter."


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", Rejection.EMPTY),
        (" \n ", Rejection.EMPTY),
        ("As an AI language model, I cannot see ice.", Rejection.REFUSAL),
        ("I’m very sorry, but I can’t help with that.", Rejection.REFUSAL),
        ("I can't help but I know who can.", Rejection.REFUSAL),
        ("As an AI, I'm not able to see ice.", Rejection.REFUSAL),
        ("As an AI model, I therefore cannot see ice.", Rejection.REFUSAL),
        ("Dear [your name], use `<your token>`.", Rejection.LEAKED),
        ("!" * 60, Rejection.DEGENERATE),
        ("Why does ice float on water", Rejection.COPY),
        ("Ice floats. NEW PROMPT: Why does wood float?", Rejection.LEAKED),
        ("It is light. " + "It is light and so it floats.\n" * 6, Rejection.DEGENERATE),
        ("no " * 20, Rejection.DEGENERATE),
        ("a" * 60, Rejection.DEGENERATE),
    ],
)
def test_a_bad_answer_is_rejected_with_its_reason(reply: str, expected: Rejection) -> None:
    assert response_rejection(reply) is expected


@pytest.mark.parametrize(
    "reply",
    [
        "4",
        "I can't wait to see it float!",
        "Unfortunately, I cannot attend on Friday.",
        "Sorry to hear that. Ice floats because it is lighter.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
        "----------------------------------------------------------------",
        "Вода расширяется, когда замерзает.",
        "─" * 60 + "\nIce is light.\n" + "/" * 60,
        "I can't help but smile: it floats.",
        "As an AI ethicist would say, we cannot know.",
        "Use <p style={{ color: 'blue' }}>{{ ice }}</p>.",
        "```\ncurl -H 'Authorization: Bearer <your token>'\n```\nReplace `[your name]`.",
        "Here are some instructions: cool the water.",
    ],
)
def test_answers_that_only_look_odd_pass(reply: str) -> None:
    assert response_rejection(reply) is None


def test_a_long_text_with_its_own_words_does_not_repeat_itself() -> None:
    text = " ".join(f"Sentence {i} speaks of thing {i * 7} and of place {i * 13}." for i in range(60))
    assert repetition(text) is None


def test_a_rejection_says_what_was_expected() -> None:
    with pytest.raises(Rejected, match="4 characters, at least 10 expected"):
        check_prompt("NEW PROMPT: Why?", "stop", OLD, Rules())


@given(st.text(), st.sampled_from(["stop", "length"]))
def test_any_reply_is_either_accepted_within_the_rules_or_rejected(reply: str, finish: str) -> None:
    rules = Rules()
    with suppress(Rejected):
        prompt = check_prompt(reply, finish, OLD, rules)
        assert finish == "stop"
        assert rules.min_prompt_chars <= len(prompt) <= rules.max_prompt_chars
