"""How batches are split: within the limits, in order, nothing lost, nothing twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish._batches import check_ids, measure, plan, sample_bytes
from burnish._convert import sample_to_proto
from burnish._errors import UsageError
from burnish._types import ItemStatus, Message, Role, Sample

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
SAMPLES = st.builds(
    lambda name, texts: Sample(name, tuple(Message(Role.USER, text) for text in texts)),
    TEXT,
    st.lists(TEXT, max_size=5),
)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 10), st.integers(1, 60))
def test_every_item_is_in_one_batch_or_refused(sizes: list[int], max_items: int, max_bytes: int) -> None:
    chosen = plan(sizes, max_items=max_items, max_bytes=max_bytes)
    batched = [index for batch in chosen.batches for index in batch]
    assert batched == [index for index, size in enumerate(sizes) if size <= max_bytes]
    assert set(chosen.refused) == {index for index, size in enumerate(sizes) if size > max_bytes}
    for batch in chosen.batches:
        assert 0 < len(batch) <= max_items
        assert sum(sizes[index] for index in batch) <= max_bytes


def test_batches_are_of_about_the_same_length() -> None:
    chosen = plan([1] * 300, max_items=256, max_bytes=10**6)
    assert [len(batch) for batch in chosen.batches] == [150, 150]


def test_a_batch_ends_where_the_next_item_would_not_fit() -> None:
    chosen = plan([6, 5, 5, 6], max_items=4, max_bytes=10)
    assert chosen.batches == ((0,), (1, 2), (3,))


def test_an_item_larger_than_a_message_is_refused_with_both_numbers() -> None:
    status = plan([11, 1], max_items=4, max_bytes=10).refused[0]
    assert (status.reason, status.retryable, status.ok) == ("TOO_LARGE", False, False)
    assert "11 bytes" in status.message
    assert "10" in status.message


@given(SAMPLES)
def test_the_estimate_is_never_below_the_wire_size(sample: Sample) -> None:
    wire = sample_to_proto(sample).ByteSize()
    # As an element of a repeated field it takes a tag and a length, too.
    assert wire + 6 <= sample_bytes(sample) + 6
    assert wire <= sample_bytes(sample)


def test_text_without_utf8_form_is_one_items_problem() -> None:
    broken = Sample("b", (Message(Role.USER, "half a pair: \ud83d"),))
    sound = Sample("a", (Message(Role.USER, "ok"),))
    sizes = measure([sound, broken], sample_bytes)
    assert isinstance(sizes[0], int)
    assert isinstance(sizes[1], ItemStatus)
    assert sizes[1].reason == "BAD_TEXT"
    assert "surrogates" in sizes[1].message


def test_repeated_ids_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match=r"score got 1 ids more than once \('b'\)"):
        check_ids(["a", "b", "b"], "score")


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="score got no samples"):
        check_ids([], "score")
