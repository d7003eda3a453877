"""What every engine must do when it embeds."""

from __future__ import annotations

import numpy as np
import pytest

from burnish_services.engine.base import EngineFailure
from tests.contract.conftest import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = ["The capital of France is Paris.", "Paris is the capital city of France.", "for i in range(10): print(i)"]


async def vectors(rig: Rig, *texts: str) -> list[np.ndarray]:
    results = await rig.engine.embed([rig.engine.tokenizer.encode(text).ids for text in texts])
    assert not any(isinstance(result, EngineFailure) for result in results)
    return results  # type: ignore[return-value]


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.allclose(left, right, atol=1e-3, rtol=1e-3))


async def test_vectors_are_means_and_not_normalised(pooling: Rig) -> None:
    found = await vectors(pooling, *TEXTS)
    assert {(vector.dtype, vector.ndim) for vector in found} == {(np.dtype(np.float32), 1)}
    assert len({vector.shape for vector in found}) == 1
    assert all(abs(np.linalg.norm(vector) - 1.0) > 0.01 for vector in found)
    unit = [vector / np.linalg.norm(vector) for vector in found]
    assert unit[0] @ unit[1] > unit[0] @ unit[2]


async def test_a_vector_does_not_depend_on_its_neighbours(pooling: Rig) -> None:
    together = await vectors(pooling, *TEXTS)
    alone = [(await vectors(pooling, text))[0] for text in TEXTS]
    for one, two in zip(together, alone, strict=True):
        assert close(one, two)
        if pooling.exact:
            assert (one == two).all()


async def test_one_bad_item_fails_alone(pooling: Rig) -> None:
    ids = pooling.engine.tokenizer.encode(TEXTS[0]).ids
    limit = pooling.engine.model.max_model_len
    full = (ids * limit)[:limit]
    results = await pooling.engine.embed([ids, [*full, 5], [], [pooling.engine.model.vocab_size], ids])
    reasons = [result.reason if isinstance(result, EngineFailure) else "" for result in results]
    assert reasons == ["", "TOO_LONG", "EMPTY", "BAD_TOKEN", ""]
    assert await pooling.engine.embed([]) == []


@pytest.mark.parametrize("pooling", ["fake"], indirect=True)
async def test_other_weights_answer_otherwise_and_the_first_come_back(pooling: Rig) -> None:
    """Of the real engines test_golden.py tells."""
    seen = []
    for model in (pooling.first, pooling.second, pooling.first):
        async with pooling.host.using(pooling.named(model)) as version:
            assert version.uri == str(model)
            seen.append((await vectors(pooling, TEXTS[0]))[0])
    assert not np.allclose(seen[0], seen[1], atol=1e-3)
    assert close(seen[0], seen[2])
