"""What a site checks before it makes keys for a round: nothing is taken on trust that it can know itself (SPEC 9.5).

`check_round` returns the setting that keys, masks and signatures are bound to, or declines. Its words may leave the
site: they name sites, versions and segments, no path and no secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedmepd.aggregation import vector_length
from fedmepd.layout_json import layout_digest
from protos.settings import format_pairs, setting_of
from protos.terms import Advertise, DeclineCause
from security.errors import MembershipError, SecurityError
from security.secagg import Setting
from site_agent.errors import RefusalError
from site_agent.secagg.knowledge import Knowledge
from site_agent.secagg.records import Records, RoundRecord
from site_agent.secagg.spent import Spent

CLAUSE = "SPEC 9.5"
_HALF_RING = 1 << 31
_BESIDE = ("anchors", "start")


def check_round(task: Advertise, known: Knowledge, records: Records, spent: Spent) -> Setting:
    """Check what a round is about, and return it as the site computes it.

    Args:
        task: What the coordinator says.
        known: What the site knows.
        records: Of rounds before.
        spent: Updates that were sent.

    Raises:
        RefusalError: For what differs, or must not be.
    """
    keys = _check_membership(task, known)
    _check_layout(task, known)
    _check_broadcast(task, known)
    _check_previous(task, known, records)
    _check_headroom(task, known)
    _check_unspent(known, records, spent)
    return _setting(task, known, keys)


def setting_again(task: Advertise, known: Knowledge, before: Setting) -> Setting:
    """Return the setting of a task in an attempt that was checked before and has begun.

    A list that was published since, or a membership that has ended since, changes nothing of it: identity keys are
    those of then, and of sites that were not asked then, none.

    Raises:
        RefusalError: If it is no setting.
    """
    strangers = dict.fromkeys((one.site for one in task.roster), b"")
    return _setting(task, known, strangers | {party.site: party.identity_key for party in before.parties})


def _check_membership(task: Advertise, known: Knowledge) -> dict[str, bytes]:
    """Check list, roster and modality sets; return the identity keys of the roster."""
    listed = known.listed
    if task.membership_version != listed.version:
        raise refusal(
            f"the round goes by membership list {task.membership_version}, the newest one here is {listed.version}"
        )
    if task.membership_digest != listed.digest:
        raise refusal(f"the round goes by another membership list {listed.version} than the one that is signed")
    if known.site not in (one.site for one in task.roster):
        raise refusal("the roster does not hold this site")
    keys = {}
    for one in task.roster:
        try:
            member = listed.member(one.site, known.now)
        except MembershipError as error:
            raise refusal(error.problem) from error
        expected = known.spec.sites.get(one.site)
        if expected is None:
            raise refusal(f"the roster holds {one.site}, which is not of the run")
        if not tuple(sorted(expected)) == member.modalities == one.modalities:
            raise refusal(f"roster, membership list and run do not agree on the modalities of {one.site}")
        keys[one.site] = member.identity_key
    return keys


def _check_layout(task: Advertise, known: Knowledge) -> None:
    layout = known.layout
    if task.layout_digest != layout_digest(layout):
        raise refusal(
            "the round has another layout than this site's own network: all members of a run need the same release"
        )
    lengths = [(segment.name, vector_length(segment)) for segment in layout.segments]
    if [(part.name, part.values) for part in task.segments] != lengths:
        raise refusal("the round's segments are not those of the layout")
    own = {segment.name for segment in layout.for_member(known.own)}
    for part in task.segments:
        counted = known.result.least_open.get(part.name)
        if part.name in own and part.least_open != counted:
            raise refusal(f"segment {part.name} has a least open count of {part.least_open}, its counts say {counted}")


def _check_broadcast(task: Advertise, known: Knowledge) -> None:
    named = {ref.name: ref.sha256 for ref in task.broadcast}
    segments = [ref.name for ref in task.broadcast if ref.name not in _BESIDE]
    if segments != [segment.name for segment in known.layout.segments]:
        raise refusal("the broadcast's segments are not those of the layout")
    if missing := sorted({segment.name for segment in known.layout.for_member(known.own)} - set(known.result.inputs)):
        raise refusal(f"this site did not download {missing[0]} for the round")
    for name, sha256 in known.result.inputs.items():
        if named.get(name) != sha256:
            raise refusal(f"this site trained on another {name} than the broadcast names")
    if extra := [name for name in _BESIDE if name in named and name not in known.result.inputs]:
        raise refusal(f"the broadcast names {extra[0]}, which this site was not given")


def _check_previous(task: Advertise, known: Knowledge, records: Records) -> None:
    where = known.round
    if where.round_number == 1:
        if task.previous != tuple(sorted(known.spec.sites)):
            raise refusal("the first round follows on all sites of the run")
        return
    before = records.last(where.run, where.round_number - 1)
    if before is not None and not _may_follow(task.previous, before):
        raise refusal("the sites of the sum before are not those that this site knows of")


def _may_follow(previous: tuple[str, ...], before: RoundRecord) -> bool:
    """Whether counts may be of these sites; a site that was out before U3 was shown to it knows an upper bound."""
    if before.survivors:
        return previous in (before.survivors, before.previous)
    if before.masked is not None:
        return previous == before.previous or set(previous) <= set(before.sharers)
    return True


def _check_headroom(task: Advertise, known: Knowledge) -> None:
    for clip, scale in format_pairs(known.spec.formats):
        if len(task.roster) * (scale * clip + 1) >= _HALF_RING:
            raise refusal(f"a sum over {len(task.roster)} sites does not fit into 32 bits")


def _check_unspent(known: Knowledge, records: Records, spent: Spent) -> None:
    where = known.round
    if (seen := max(records.attempts(where.run, where.round_number), default=0)) > where.attempt:
        raise refusal(f"attempt {where.attempt} comes after attempt {seen}")
    try:
        spent.check(where, known.result.manifest.vector.sha256)
    except SecurityError as error:
        raise RefusalError(error.problem, cause=DeclineCause.POLICY, clause="SPEC 11.5", remedy=error.remedy) from error


def _setting(task: Advertise, known: Knowledge, keys: Mapping[str, bytes]) -> Setting:
    try:
        found = setting_of(
            task,
            known.round,
            consortium=known.consortium,
            spec=known.spec,
            spec_sha256=known.spec_sha256,
            identity_keys=keys,
            samples=known.result.samples,
            minimum_cohort=known.listed.minimum_cohort,
        )
    except SecurityError as error:
        raise refusal(error.problem) from error
    if found.context.hex() != task.context:
        raise refusal("the round's context is not the one that this site computes", clause="SPEC 9.3")
    return found


def refusal(problem: str, clause: str = CLAUSE) -> RefusalError:
    """Return the refusal of a round by policy."""
    return RefusalError(problem, cause=DeclineCause.POLICY, clause=clause)
