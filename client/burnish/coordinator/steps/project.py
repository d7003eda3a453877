"""Step `project`: where a round's samples lie in the report's picture. Nothing that a run makes depends on it."""

from __future__ import annotations

from collections.abc import Sequence

from burnish._coverage_types import Projection, ProjectionMethod
from burnish._errors import NotFound, PreconditionFailed
from burnish.coordinator.steps.stage import AnyRun

MOST_PLACED = 100_000  # samples of a picture: what UMAP takes, and what any message holds; no page shows more
NO_UMAP = "UMAP_NOT_INSTALLED"
_GONE = "SAMPLE_NOT_EMBEDDED"


async def project(run: AnyRun, round_number: int, collection: str, hashes: Sequence[str]) -> None:
    """Where those of `hashes` lie that are in the collection; of more than 100,000 a part that their content draws.

    Since it is a picture and no more, a run does not end by it where it can go on: a service without UMAP is asked
    for PCA, and where its vectors are gone there is no picture. Either is noted.
    """
    stage = run.stage(round_number, "project")
    if stage.done:
        return
    with stage.working():
        if run.book.history().places(round_number):
            return  # killed between the places and the note that the step is done
        failed = run.book.findings.embedding_failures(hashes, collection)
        names = sorted(name for name in dict.fromkeys(hashes) if name not in failed)  # hashes are as good as drawn
        found = await _projection(run, round_number, collection, names[:MOST_PLACED])
        if found is None:
            return
        places = [(name, x, y) for name, (x, y) in zip(found.sample_ids, found.points.tolist(), strict=True)]
        detail = {"variance_shares": list(found.variance_shares), "method": found.method.value, "of": len(names)}
        with run.book.transaction():
            stage.expect_within(len(places), detail=detail)
            run.book.add_places(round_number, places)
            stage.advance(len(places))


async def project_embedded(run: AnyRun, round_number: int, hashes: Sequence[str]) -> None:
    """The same of the collection that the round's step `embed` filled."""
    await project(run, round_number, str(run.stage(round_number, "embed").detail["collection"]), hashes)


async def _projection(run: AnyRun, round_number: int, collection: str, names: Sequence[str]) -> Projection | None:
    """None where there is nothing to place: no ids would mean the whole collection."""
    if not names:
        return None
    service = run.client.embedding
    try:
        try:
            return await service.project(collection, names, method=run.options.map)
        except PreconditionFailed as error:
            if error.reason != NO_UMAP:
                raise
            run.observer.noted(f"Round {round_number}: the map is drawn by PCA instead of UMAP: {error}")
            return await service.project(collection, names, method=ProjectionMethod.PCA)
    except (NotFound, PreconditionFailed) as error:
        if isinstance(error, PreconditionFailed) and error.reason != _GONE:
            raise
        run.observer.noted(f"Round {round_number} has no map, for the service no longer holds its vectors: {error}")
        return None
