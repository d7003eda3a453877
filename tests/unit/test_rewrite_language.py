"""Telling languages apart, and not guessing."""

from __future__ import annotations

import pytest

from burnish_services.rewriting.language import dominant_script, language_change, likely_language

ENGLISH = "What is the name of the man that you have met, and how do you know that he is from here?"
GERMAN = "Wie heißt der Mann, den du getroffen hast, und woher weißt du, dass er nicht aus dem Dorf ist?"
FRENCH = "Quel est le nom de la personne que vous avez vue dans la rue avec les enfants, et pour qui est ce livre?"
SPANISH = "¿Cómo se llama el hombre que vive en la casa con los niños, y por qué es el libro para ella?"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (ENGLISH, "LATIN"),
        ("Почему лёд плавает на воде?", "CYRILLIC"),
        ("なぜ氷は水に浮くのですか。", "CJK"),
        ("为什么冰会浮在水面上？", "CJK"),
        ("Γιατί επιπλέει ο πάγος;", "GREEK"),
        ("1 + 1 = 2", None),
        ("Why is it? Почему?", None),
        ("", None),
    ],
)
def test_scripts(text: str, script: str | None) -> None:
    assert dominant_script(text) == script


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "English"),
        (GERMAN, "German"),
        (FRENCH, "French"),
        (SPANISH, "Spanish"),
        ("Python list comprehension syntax", None),
        ("def f(x): return x", None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    assert likely_language(text) == language


def test_changes_are_told_and_doubts_are_not() -> None:
    assert language_change(ENGLISH, GERMAN) == "language changed from English to German"
    assert language_change(ENGLISH, "Почему лёд плавает на воде?") == "script changed from LATIN to CYRILLIC"
    assert language_change(ENGLISH, ENGLISH) is None
    assert language_change("Sum 1 2 3", GERMAN) is None
    # Half in one script and half in another: either may be what it is about.
    assert language_change("Translate this sentence: Почему лёд плавает?", ENGLISH) is None
