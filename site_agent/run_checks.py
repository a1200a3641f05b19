"""A run against the hospital's policy: refused, waiting for a person, or taken part in.

Words may leave the site: they name keys of the policy and facts of the run. Which sites a person has not approved stays
here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from fedmepd.layout import COMMON
from fedmepd.runspec import RunSpec
from protos.terms import DeclineCause
from security.membership import MembershipList
from site_agent.approvals import Approvals, Kind, Subject, configuration_of
from site_agent.charges import NO_BUDGET
from site_agent.errors import RefusalError
from site_agent.policy_file import Policy
from site_agent.secagg.knowledge import strangers


def check_allowed(spec: RunSpec, policy: Policy, *, minimum: int, counted: frozenset[str] | None, site: str) -> None:
    """Check that the policy allows a run.

    Args:
        spec: The run's specification.
        policy: In force.
        minimum: Fewest sites in a sum, by policy and signed list.
        counted: Sites that a person approved; None if the list is enough.
        site: Who we are.

    Raises:
        RefusalError: If it does not, naming the key.
    """
    if not any(fnmatchcase(spec.run_id, pattern) for pattern in policy.allow.runs):
        raise _refusal(f"the site's policy does not allow run {spec.run_id}", "allow.runs")
    if policy.allow.methods is not None and spec.method.name not in policy.allow.methods:
        raise _refusal(f"the site's policy does not allow method {spec.method.name}", "allow.methods")
    _check_privacy(spec, policy)
    if spec.aggregation == "plain":
        if not policy.aggregation.plain:
            raise _refusal("the site's policy forbids aggregation in clear", "aggregation.plain")
        return
    _check_cohort(spec, policy, minimum, counted, site)


def waiting_for(spec: RunSpec, spec_sha256: str, policy: Policy, approvals: Approvals) -> tuple[Subject, ...]:
    """Return what of a run a person has not decided on.

    Raises:
        RefusalError: If a person has denied it.
    """
    about = f"{spec.method.name}, {spec.plan.run.rounds} rounds, {len(spec.sites)} sites, {spec.aggregation}"
    decisions, subjects = approvals.read(), []
    if policy.approval.runs == "person":
        subjects.append(Subject(kind=Kind.RUN, id=spec.run_id, fingerprint=spec_sha256, about=about))
    if policy.approval.configurations == "person":
        digest = configuration_of(spec.plan)
        subjects.append(Subject(kind=Kind.CONFIGURATION, id=digest, fingerprint=digest, about=about))
    waiting = []
    for subject in subjects:
        verdict = decisions.verdict(subject)
        if verdict is False:
            key = "approval.runs" if subject.kind is Kind.RUN else "approval.configurations"
            raise _refusal(f"a person at the site denied this {subject.kind.value}", key)
        if verdict is None:
            waiting.append(subject)
    return tuple(waiting)


def members_of(listed: MembershipList, site: str) -> tuple[Subject, ...]:
    """Return the other members of a list as what a person approves."""
    return tuple(
        Subject(kind=Kind.MEMBER, id=one.site, fingerprint=one.identity_key.hex(), about=", ".join(one.modalities))
        for one in listed.members
        if one.site != site
    )


def counted_of(listed: MembershipList, policy: Policy, approvals: Approvals, site: str) -> frozenset[str] | None:
    """Return the members that count, besides the site itself; None if the list is enough (SPEC 10.10)."""
    if policy.approval.members == "list":
        return None
    decisions = approvals.read()
    return frozenset(one.id for one in members_of(listed, site) if decisions.verdict(one) is True)


def check_members(spec: RunSpec, listed: MembershipList, approvals: Approvals, site: str) -> None:
    """Check that a run has no site that a person denied; a roster holds sites of the run only (SPEC 9.5).

    Raises:
        RefusalError: If it has one; the site's own people see which with `policy show`.
    """
    decisions = approvals.read()
    if any(one.id in spec.sites and decisions.denied(one) for one in members_of(listed, site)):
        raise _refusal("the run has a site that a person at this site denied", "approval.members")


def _check_privacy(spec: RunSpec, policy: Policy) -> None:
    """Check what a run promises, as far as that needs no patients counted (`site_agent.charges` does the rest)."""
    promised, wanted = spec.plan.privacy.sites is not None, policy.privacy
    if wanted.dp_floor is not None and not promised:
        raise _refusal("the run promises no differential privacy, which the site's policy demands", "privacy.dp_floor")
    if wanted.budget is not None and not promised and not wanted.unprotected:
        raise _refusal(
            "the run promises no differential privacy, and this site keeps a privacy budget"
            " (a person at the site may set privacy.unprotected)",
            "privacy.epsilon",
        )
    if promised and wanted.epsilon is None:
        raise _refusal(NO_BUDGET, "privacy.epsilon")


def _check_cohort(spec: RunSpec, policy: Policy, minimum: int, counted: frozenset[str] | None, site: str) -> None:
    """Check the run against what the site is going to demand of its sums (SPEC 10.1)."""
    contributors = spec.plan.personalisation.min_contributors
    demanded = minimum + strangers(spec.sites, counted, site)
    if contributors < demanded:
        raise _refusal(
            f"personalisation.min_contributors of the run is {contributors}, this site demands {demanded}",
            "aggregation.minimum_cohort",
        )
    counting = sum(counted is None or one == site or one in counted for one in spec.sites)
    colluders = policy.aggregation.assumed_colluders
    if counting < minimum or counting - colluders < 2:  # noqa: PLR2004  SPEC 10.10
        raise _refusal(
            f"segment {COMMON} has {counting} sites that count at this site, {minimum} are demanded"
            f" and two beside {colluders} colluders",
            "aggregation.minimum_cohort",
        )


def _refusal(problem: str, key: str) -> RefusalError:
    return RefusalError(problem, cause=DeclineCause.POLICY, clause=f"policy {key}")
