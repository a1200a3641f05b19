"""The site's worker as a real process: it checks, opens, is killed, and goes on as if nothing had been."""

from __future__ import annotations

import sys

import pytest

from fedmepd.errors import JobFailedError, WorkerDiedError
from fedmepd.supervision import WorkerProcess
from tests.fedmepd.worker_federation import WorkerFederation

TIMEOUT_S = 300


@pytest.mark.slow
def test_a_worker_process_checks_opens_and_is_killed(tmp_path):
    federation = WorkerFederation(tmp_path)
    opening = federation.opening("site-1")
    worker = WorkerProcess([sys.executable, "-P", "-m", "site_agent.trainer"], log_path=tmp_path / "worker.log")
    try:
        cohort = opening["member"]["cohort"]
        facts = worker.submit("check", cohort=cohort, modalities=["flair", "t1ce"]).result(TIMEOUT_S)
        assert facts["cohort"]["per_modality"] == {"flair": 4, "t1ce": 4}
        assert facts["device"] == "cpu"
        common = federation.common("site-1")
        assert worker.submit("open", **common).result(TIMEOUT_S)["patients"]["train"] == 2
        with pytest.raises(JobFailedError, match="does not exist") as failed:
            worker.submit("check", cohort=str(tmp_path / "nowhere")).result(TIMEOUT_S)
        assert failed.value.kind == "CohortError"
        worker.on_progress = lambda _number, facts: facts["phase"] == "training" and worker.kill()
        federation.start()
        job = federation.site_job("site-1", 1)
        with pytest.raises(WorkerDiedError):
            worker.submit("round", **job).result(TIMEOUT_S)
        worker.on_progress = None
        again = worker.submit("round", **job).result(TIMEOUT_S)
        here = federation.site_round("site-1", 1)
        assert here["repeated"]
        assert here["sha256"] == again["sha256"]
    finally:
        worker.kill()
