"""Preparing a whole cohort ahead of training, and finding out which cases cannot be.

Opening looks at headers only, so a case with bad voxels shows here at the latest: it is an error, or is handed to
`on_skip`; it is never dropped silently. Holds one case per worker in memory, not the cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fedmepd.cohorts.case import Case, Cohort
from fedmepd.cohorts.prepare import Settings, prepare_case
from fedmepd.errors import CohortError


def prepare_cohort(  # noqa: PLR0913  keyword-only options of one front door
    cohort: Cohort,
    modalities: Sequence[str],
    settings: Settings,
    cache_dir: str | Path,
    *,
    skip_invalid: bool = False,
    on_skip: Callable[[str, str], None] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Cohort:
    """Fill the cache with every case of a cohort.

    Args:
        cohort: From `open_cohort`.
        modalities: Which images, in the order of the result.
        settings: How.
        cache_dir: Folder of the cache; `prepare_case` with the same arguments then reads from it.
        skip_invalid: Leave out cases that cannot be prepared instead of raising.
        on_skip: Called with case id and reason for each case that is left out.
        workers: Cases prepared at the same time, in threads.
        progress: Called with the number of cases done and of all cases.

    Returns:
        The cohort of the cases that can be prepared.

    Raises:
        CohortError: If a case cannot be prepared, or none is left.
    """

    def attempt(case: Case) -> CohortError | None:
        try:
            prepare_case(case, modalities, settings, cache_dir)
        except CohortError as error:
            if not skip_invalid:
                raise
            return error
        return None

    kept: list[Case] = []
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        try:
            results = zip(cohort.cases, pool.map(attempt, cohort.cases), strict=True)
            for done, (case, error) in enumerate(results, start=1):
                if error is None:
                    kept.append(case)
                elif on_skip is not None:
                    on_skip(case.case_id, str(error))
                if progress is not None:
                    progress(done, len(cohort.cases))
        finally:
            pool.shutdown(cancel_futures=True)  # a failure waits for the cases at hand only
    if not kept:
        raise CohortError(
            f"cohort {cohort.name!r} has no case that can be prepared",
            remedy=f"see why with `fedmepd cohort check {cohort.root}`",
        )
    return replace(cohort, cases=tuple(kept))
