"""What this site agrees to do and lets out: an allow-list that fails closed (security.md, section 4).

Each check raises a `RefusalError`, with which the round is declined. Problems are told to the coordinator, so they name
no case and no path.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedmepd.aggregation import vector_length
from fedmepd.layout import COMMON, Layout
from fedmepd.layout_json import layout_digest
from fedmepd.runspec import RunSpec
from protos.context import round_context
from protos.terms import ArtefactRef, DeclineCause, RoundId, SegmentSlice, Submit, Train, VectorManifest
from security.secagg import is_member
from site_agent.config import Config
from site_agent.errors import Fault, RefusalError
from site_agent.updates import CheckedUpdate

_WORD = 4


def check_run(spec: RunSpec, run: str, site: str, own: Sequence[str]) -> None:
    """Check that a run expects of the site what the hospital configured.

    Raises:
        RefusalError: If it is another run, or has the site with other modalities.
    """
    if spec.run_id != run:
        raise _policy(f"the run's specification is of run {spec.run_id}, not {run}")
    expected = spec.sites.get(site)
    if expected is None:
        raise _policy(f"run {run} does not name this site as a member")
    if set(expected) != set(own):
        raise _policy(f"run {run} expects {', '.join(expected)} of this site, which offers {', '.join(sorted(own))}")


def check_train(task: Train, own: Sequence[str], layout: Layout | None, config: Config) -> None:
    """Check that a broadcast holds the site's own segments and nothing beside them.

    Raises:
        RefusalError: If it does not, or is larger than the hospital allows.
    """
    names = [part.name for part in task.segments]
    if layout is None:
        allowed = {COMMON, *(f"modality/{name}" for name in own)}
        if not set(names) <= allowed or COMMON not in names:
            raise _policy(f"the broadcast has segments {', '.join(names) or 'none'}: not this site's own")
    elif names != [segment.name for segment in layout.for_member(own)]:
        raise _policy(f"the broadcast has segments {', '.join(names) or 'none'}: not those of the layout")
    for ref in task.artefacts:
        if ref.size > config.limits.max_download_bytes:
            raise _policy(f"an artefact of {ref.size} bytes is larger than limits.max_download_bytes")


def check_owners(task: Train, spec: RunSpec) -> None:
    """Check that the broadcast says of each segment how many sites of the run have it.

    A site sends zeros for a segment that too few sites have: told a smaller number, all others would leave it alone.

    Raises:
        RefusalError: If it says another number.
    """
    for part in task.segments:
        owners = sum(is_member(own, part.name) for own in spec.sites.values())
        if part.owners != owners:
            problem = f"the broadcast gives segment {part.name} {part.owners} owners, the run's specification {owners}"
            raise RefusalError(problem, cause=DeclineCause.POLICY, clause="SPEC 9.5")


def check_specification(run: str, sha256: str, known: str | None) -> None:
    """Check that a run goes by the specification that it began with at this site.

    Raises:
        RefusalError: If it goes by another one.
    """
    if known not in (None, sha256):
        problem = f"run {run} goes by another specification than this site began it with"
        raise RefusalError(problem, cause=DeclineCause.POLICY, clause="SPEC 9.5")


def manifest_of(update: CheckedUpdate, *, sha256: str, most: int) -> VectorManifest:
    """Return what a contribution consists of, once all of it has been read and checked.

    Args:
        update: The contribution, not read yet.
        sha256: What the trainer says its hash is.
        most: Largest size that may leave the site, in bytes.

    Raises:
        RefusalError: If size, values or hash are not what they must be.
    """
    slices = tuple(SegmentSlice(name=segment.name, values=vector_length(segment)) for segment in update.segments)
    size, wanted = _size(update.path), _WORD * sum(part.values for part in slices)
    if size != wanted:
        raise _update(f"the contribution has {size} bytes, the layout wants {wanted}", "shape")
    if size > most:
        raise _policy(f"the contribution has {size} bytes, limits.max_update_bytes allows {most}", "other")
    update.check()
    if update.digest.hexdigest() != sha256:
        raise _update("the contribution is not what the trainer wrote", "other")
    return VectorManifest(segments=slices, vector=ArtefactRef(sha256=sha256, size=size))


def check_submit(round_id: RoundId, spec: ArtefactRef, task: Submit, *, site: str, layout: Layout | None) -> None:
    """Check that the round is what the site believes it is (PROTOCOL 4.8).

    Raises:
        RefusalError: If the site is not in the roster, or the context differs.
    """
    if site not in task.roster:
        raise _policy("the site is not in the roster of the round that it is to submit to")
    digest = "" if layout is None else layout_digest(layout)
    if round_context(round_id, spec=spec.sha256, layout=digest, roster=task.roster) != task.context:
        raise _policy(
            "the round's context is not the one that this site computes: run, roster or layout differ "
            "(all members of a run need the same release)"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _update("the contribution cannot be read", "other") from error


def _policy(problem: str, fault: Fault = "") -> RefusalError:
    return RefusalError(problem, cause=DeclineCause.POLICY, fault=fault)


def _update(problem: str, fault: Fault) -> RefusalError:
    return RefusalError(problem, cause=DeclineCause.UPDATE, fault=fault)
