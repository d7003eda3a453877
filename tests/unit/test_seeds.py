"""Derived seeds."""

from __future__ import annotations

from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.seeds import content_key, derive_seed


def test_a_seed_depends_on_everything_it_is_for() -> None:
    seeds = {derive_seed(seed, *parts) for seed in (0, 1) for parts in (("a", 1), ("a", 2), ("b", 1), ("a1",), ("a",))}
    assert len(seeds) == 10
    assert all(seed is not None and 0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_everywhere_and_always() -> None:
    assert derive_seed(7, "x", 3) == 8371189202144609776
    assert derive_seed(2**64 - 1, "x") == derive_seed(2**64 - 1, "x")


def test_no_seed_stays_none() -> None:
    assert derive_seed(None, "x") is None


def test_content_is_roles_and_texts() -> None:
    hello = [ChatMessage("user", "Hello")]
    assert content_key(hello) == content_key([ChatMessage("user", "Hello")])
    assert content_key(hello) != content_key([ChatMessage("assistant", "Hello")])
    assert content_key([*hello, ChatMessage("user", "")]) != content_key(hello)
