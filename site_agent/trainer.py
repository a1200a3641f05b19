"""The site's training worker: `python -P -m site_agent.trainer`, driven over pipes by the agent.

Jobs: check, open, round, finish, account (arguments in `fedmepd.jobs`). It talks to nobody but the agent; what it reads
and writes are files that the agent names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmepd.compute import gpu_facts
from fedmepd.jobs import Check, Finish, Job, Open, SiteRound, parse_job, spec_of
from fedmepd.member_runs import finish_run
from fedmepd.participants import SiteParticipant
from fedmepd.workbench import Opened, Workbench, check, machine_facts, opened_facts
from fedmepd.worker import Handler, Progress, serve
from site_agent.trainer_privacy import account, hooks_of
from site_agent.trainer_rounds import train_round


class SiteTrainer:
    """The jobs of a site; patients and network stay open from one job to the next."""

    def __init__(self) -> None:
        self._bench = Workbench()
        self._key: object = None
        self._participant: SiteParticipant | None = None

    @property
    def jobs(self) -> dict[str, Handler]:
        """Handlers by job name."""
        own = {"check": self.check, "open": self.open, "round": self.round, "finish": self.finish}
        return {**own, "account": account}

    def check(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Look at the machine and the cohort."""
        return check(parse_job(Check, arguments), progress)

    def open(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Prepare the site's patients and say what there is."""
        job = parse_job(Open, arguments)
        opened, participant = self._participate(job, progress)
        return opened_facts(opened, participant, job.opening)

    def round(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Do the site's part of a round."""
        job = parse_job(SiteRound, arguments)
        opened, participant = self._participate(job, progress)
        found = train_round(job, participant, progress)
        return found if found.get("lost") else {**found, **machine_facts(opened)}

    def finish(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Write the site's results."""
        job = parse_job(Finish, arguments)
        return finish_run(job, self._participate(job, progress)[1], None, progress)

    def _participate(self, job: Job, progress: Progress) -> tuple[Opened, SiteParticipant]:
        spec = spec_of(job)
        opened = self._bench.open(job.opening, spec.plan, progress)
        key = (job.spec, opened.member)
        if self._participant is None or self._key != key:
            self._participant = SiteParticipant(
                spec,
                opened.member,
                opened.backend,
                workers=job.opening.compute.workers,
                privacy=hooks_of(spec.plan),
            )
            self._key = key
        return opened, self._participant


if __name__ == "__main__":
    serve(SiteTrainer().jobs, machine=gpu_facts)
