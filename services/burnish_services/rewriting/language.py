"""Which language a text is in, as far as that can be told cheaply: its script, and for Latin script the
function words of a few languages. Pure. Silent where unsure: a wrong guess would throw away a good
rewrite."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Function words that a text of the language can hardly do without, and that the other languages here lack or
# use rarely.
_FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "English": "the and of is that with for this are you what how which from your have can not",
        "German": "der die das und ist nicht ein eine mit für auf sich den dem wie was zu werden auch",
        "French": "le les des est une dans pour qui que vous avec sur pas du au et ce cette sont",
        "Spanish": "el los las una es por para con que del se su más cómo qué al lo y como",
        "Italian": "il gli che di una per con non sono della del come è le più questo nel un anche",
        "Portuguese": "o os as uma não para com em do da que se por mais como é ao dos um",
        "Dutch": "de het een van en is niet dat met voor op zijn te hoe wat aan er ook bij",
    }.items()
}
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_HITS = 4
_LEAST_LEAD = 2.0  # times the hits of the next language
_LEAST_SHARE = 0.6  # of the letters, for a script to be dominant
_LEAST_LETTERS = 8


def dominant_script(text: str) -> str | None:
    """The script of most letters, as Unicode names it (LATIN, CYRILLIC, …), Chinese and Japanese characters
    together as CJK; None where the text has few letters or no script dominates."""
    scripts = Counter(_script(character) for character in text if character.isalpha())
    letters = scripts.total()
    if letters < _LEAST_LETTERS:
        return None
    script, count = scripts.most_common(1)[0]
    return script if count >= _LEAST_SHARE * letters else None


def likely_language(text: str) -> str | None:
    """The language of a text in Latin script, from its function words; None where that is not clear."""
    words = [word.lower() for word in _WORD.findall(text)]
    hits = sorted(
        ((sum(word in known for word in words), language) for language, known in _FUNCTION_WORDS.items()), reverse=True
    )
    (most, language), (next_most, _) = hits[0], hits[1]
    return language if most >= _LEAST_HITS and most >= _LEAST_LEAD * next_most else None


def language_change(old: str, new: str) -> str | None:
    """How the language of `new` differs from that of `old`, in words; None where it does not or where that
    cannot be told."""
    old_script, new_script = dominant_script(old), dominant_script(new)
    if old_script and new_script and old_script != new_script:
        return f"script changed from {old_script} to {new_script}"
    old_language, new_language = likely_language(old), likely_language(new)
    if old_language and new_language and old_language != new_language:
        return f"language changed from {old_language} to {new_language}"
    return None


def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").split(" ", 1)[0]
    # Japanese mixes three scripts with Chinese characters; telling it from Chinese is not worth a wrong
    # rejection.
    return "CJK" if name in {"HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"} else name
