"""How the samples of an optimiser step are shared out into batches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from burnish_services.training.core import Plan

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

LENGTHS = [100 + 7 * number for number in range(22)]
PLAN = Plan(per_device_batch_size=4, gradient_accumulation_steps=4)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_batches_hold_every_sample_of_a_step_once(packing: bool, size: int) -> None:
    from burnish_services.training.trainer import StepSampler
    from burnish_services.training.world import World

    plan = replace(PLAN, packing=packing)
    ranks = [StepSampler(LENGTHS, plan, World(rank, size)) for rank in range(size)]
    for step in range(2):
        batches = [batch for rank in ranks for batch in rank.batches(step)]
        assert sorted(index for batch in batches for index in batch) == sorted(ranks[0].samples(step))
        assert all(len(batch) <= 4 for batch in batches)
    assert [batch for step in range(2) for batch in ranks[0].batches(step)] == list(ranks[0])
    assert len(list(ranks[0])) == len(ranks[0])


def test_padded_batches_are_of_like_length_and_packed_ones_of_like_size() -> None:
    from burnish_services.training.trainer import StepSampler
    from burnish_services.training.world import ALONE

    padded, packed = (
        StepSampler(LENGTHS, replace(PLAN, packing=packing), ALONE).batches(0) for packing in (False, True)
    )

    def unlike(sizes: list[int]) -> int:
        return max(sizes) - min(sizes)

    def within(batch: list[int]) -> int:
        return unlike([LENGTHS[index] for index in batch])

    assert max(map(within, padded)) < min(map(within, packed))
    tokens = [[sum(LENGTHS[index] for index in batch) for batch in batches] for batches in (padded, packed)]
    assert unlike(tokens[1]) < unlike(tokens[0]) / 3
