"""The hospital's policy with what its people approved, asked about runs and members; puts down what waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedmepd.runspec import RunSpec
from security.membership import MembershipList
from site_agent.approvals import Approvals, Subject
from site_agent.policy_file import Policy
from site_agent.ports import Notes
from site_agent.run_checks import check_allowed, check_members, counted_of, members_of, waiting_for


@dataclass(slots=True)
class Rules:
    """What the site lets happen.

    Attributes:
        policy: In force since the agent was started.
        approvals: Of persons; looked up each time.
        site: Who we are.
        notes: The audit log.
    """

    policy: Policy
    approvals: Approvals
    site: str
    notes: Notes
    _members: tuple[Subject, ...] = field(default=())
    _runs: tuple[Subject, ...] = field(default=())

    def check(self, spec: RunSpec, listed: MembershipList) -> None:
        """Check that the policy allows a run.

        Raises:
            RefusalError: If it does not.
        """
        check_members(spec, listed, self.approvals, self.site)
        counted = self.counted(listed)
        check_allowed(spec, self.policy, minimum=self.policy.minimum(listed), counted=counted, site=self.site)

    def waiting(self, spec: RunSpec, spec_sha256: str) -> str:
        """Return in words what of a run waits for a person, empty if nothing does, and put it down.

        Raises:
            RefusalError: If a person denied it.
        """
        self._runs = ()
        try:
            self._runs = waiting_for(spec, spec_sha256, self.policy, self.approvals)
        finally:
            self._put_down()
        if not self._runs:
            return ""
        names = " and ".join(f"fedmepd-agent policy approve {subject}" for subject in self._runs)
        return f"waiting for a person's approval: {names}"

    def seen(self, listed: MembershipList) -> None:
        """Put down which members of a list wait for a person."""
        members = members_of(listed, self.site) if self.policy.approval.members == "person" else ()
        self._members = members
        self._put_down()

    def counted(self, listed: MembershipList) -> frozenset[str] | None:
        """Return the members that a person has approved by now; None if the list is enough."""
        return counted_of(listed, self.policy, self.approvals, self.site)

    def _put_down(self) -> None:
        decisions = self.approvals.read()
        self._members = tuple(one for one in self._members if decisions.verdict(one) is None)
        self.approvals.wait_for((*self._members, *self._runs))
        for decision in self.approvals.unaudited():
            outcome = "approved" if decision.approved else "denied"
            self.notes.note(
                f"policy.{outcome}",
                str(decision.subject),
                "accepted" if decision.approved else "refused",
                by=decision.by,
                at=decision.at,
                reason=decision.reason,
                fingerprint=decision.subject.fingerprint,
            )
            self.approvals.audited()
