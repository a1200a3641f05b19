"""The server's training worker: `python -P -m coordinator.trainer`, driven over pipes by the coordinator.

Jobs: check, open, account, start, round, finish (arguments in `fedmepd.jobs`). It talks to nobody but the coordinator;
what it reads and writes are files that the coordinator names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.trainer_privacy import epsilons, hooks_of
from coordinator.trainer_rounds import train_round, train_start
from fedmepd.errors import RunError
from fedmepd.jobs import Account, Check, Finish, Job, LeadRound, LeadStart, Open, parse_job, spec_of
from fedmepd.member_runs import finish_run
from fedmepd.member_states import load_tensors
from fedmepd.participants import LeadParticipant
from fedmepd.round_store import RoundStore
from fedmepd.states import server_state
from fedmepd.workbench import Opened, Workbench, check, opened_facts
from fedmepd.worker import Handler, Progress, serve


class LeadTrainer:
    """The jobs of the server; patients and network stay open from one job to the next."""

    def __init__(self) -> None:
        self._bench = Workbench()
        self._key: object = None
        self._lead: LeadParticipant | None = None

    @property
    def jobs(self) -> dict[str, Handler]:
        """Handlers by job name."""
        return {
            "check": self.check,
            "open": self.open,
            "account": self.account,
            "start": self.start,
            "round": self.round,
            "finish": self.finish,
        }

    def check(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Look at the machine and the cohort."""
        return check(parse_job(Check, arguments), progress)

    def open(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Prepare the server's patients and say what there is."""
        job = parse_job(Open, arguments)
        opened, lead = self._participate(job, progress)
        return opened_facts(opened, lead, job.opening)

    def account(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Say what histories of releases come to."""
        job = parse_job(Account, arguments)
        progress(phase="accounting")
        return {"epsilons": epsilons(job)}

    def start(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Do round 0."""
        job = parse_job(LeadStart, arguments)
        return train_start(job, self._participate(job, progress)[1], progress)

    def round(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Do the server's part of a round."""
        job = parse_job(LeadRound, arguments)
        return train_round(job, self._participate(job, progress)[1], progress)

    def finish(self, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """Write the server's results and the anchors."""
        job = parse_job(Finish, arguments)
        lead = self._participate(job, progress)[1]
        store = RoundStore(job.state_dir, run_id=lead.spec.run_id)
        if not store.rounds():
            raise RunError(f"{job.state_dir} holds no state yet", remedy="start the run first")
        latest = store.rounds()[-1]
        state = server_state(store.facts(latest)["server"], load_tensors(store.state_path(latest)))
        return finish_run(job, lead, state.anchors, progress)

    def _participate(self, job: Job, progress: Progress) -> tuple[Opened, LeadParticipant]:
        spec = spec_of(job)
        opened = self._bench.open(job.opening, spec.plan, progress)
        key = (job.spec, opened.member)
        if self._lead is None or self._key != key:
            self._lead = LeadParticipant(
                spec,
                [opened.member],
                opened.backend,
                workers=job.opening.compute.workers,
                privacy=hooks_of(spec.plan),
            )
            self._key = key
        return opened, self._lead


if __name__ == "__main__":
    serve(LeadTrainer().jobs)
