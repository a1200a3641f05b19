"""A federation whose members are trainers' job functions, with files between them, in one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coordinator.trainer import LeadTrainer
from fedmepd.aggregation import Accumulator
from fedmepd.artefacts import dump_sum, map_words, parse_contribution
from fedmepd.config import load_config
from fedmepd.layout_json import layout_from_json
from fedmepd.runspec import make_spec
from site_agent.trainer import SiteTrainer
from tests.fedmepd.federation_runs import write_federation

RUN_ID = "run-1"


def ignore(**_facts):
    """Ignore progress."""


@dataclass
class WorkerFederation:
    """Coordinator and agents, reduced to passing files on."""

    folder: Path
    method: str = "fedmepd"
    rounds: int = 2
    published: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)

    def __post_init__(self):
        toml = self.folder / "federation.toml"
        if not toml.is_file():
            write_federation(self.folder)
        self.config = load_config(toml, overrides={"run.rounds": self.rounds, "run.methods": [self.method]})
        plan = self.config.plan(self.method)
        self.spec = make_spec(plan, run_id=RUN_ID, sites={site.id: site.modalities for site in self.config.sites})
        self.lead = LeadTrainer()
        self.trainers = {site: SiteTrainer() for site in self.spec.sites}

    def work(self):
        return self.folder / "work" / self.method

    def opening(self, member):
        return {
            "member": next(m for m in self.config.members if m.id == member).model_dump(mode="json"),
            "cache": str(self.folder / "cache"),
            "compute": {"threads": 1},
        }

    def common(self, member):
        return {"spec": self.spec.to_dict(), "opening": self.opening(member)}

    def start(self):
        work = self.work() / "server"
        job = {**self.common("server"), "state_dir": str(work / "state"), "out_dir": str(work / "out-0")}
        self.published = self.lead.start(job, ignore)
        self.first = self.published
        return self.published

    def site_job(self, site, number, published=None):
        published = published or self.published
        layout = layout_from_json(published["layout"])
        names = [segment.name for segment in layout.for_member(self.spec.sites[site])]
        anchors, start = published["anchors"], self.first["start"]
        return {
            **self.common(site),
            "state_dir": str(self.work() / site / "state"),
            "out_dir": str(self.work() / site / "out"),
            "round": number,
            "inputs": {
                "segments": {name: published["segments"][name]["path"] for name in names},
                "anchors": anchors and anchors["path"],
                "start": start and start["path"],
                "owners": {name: published["owners"][name] for name in names},
                "samples": published["samples"],
            },
        }

    def site_round(self, site, number):
        self.results[site] = self.trainers[site].round(self.site_job(site, number), ignore)
        return self.results[site]

    def sum_of(self, sites, number):
        """Sum contributions as a coordinator does, from mapped files."""
        layout = layout_from_json(self.published["layout"])
        total = Accumulator(layout)
        for site in sites:
            path = self.work() / site / "out" / self.results[site]["contribution"]
            total.add(parse_contribution(map_words(path), layout, self.spec.sites[site], site=site))
        path = self.work() / "server" / f"sum-{number}.bin"
        path.write_bytes(dump_sum(total))
        return {"path": str(path), "contributors": total.contributors, "sites": total.sites}

    def lead_job(self, number, total):
        work = self.work() / "server"
        return {
            **self.common("server"),
            "state_dir": str(work / "state"),
            "out_dir": str(work / f"out-{number}"),
            "round": number,
            "sum": total,
        }

    def lead_round(self, number, total):
        self.published = self.lead.round(self.lead_job(number, total), ignore)
        return self.published

    def run(self):
        self.start()
        for number in range(1, self.rounds + 1):
            for site in reversed(self.spec.sites):  # the order of arrival is not that of the roster
                self.site_round(site, number)
            self.lead_round(number, self.sum_of(list(self.spec.sites), number))

    def finish(self, member, run_dir):
        trainer = self.lead if member == "server" else self.trainers[member]
        job = {**self.common(member), "state_dir": str(self.work() / member / "state"), "run_dir": str(run_dir)}
        return trainer.finish(job, ignore)
