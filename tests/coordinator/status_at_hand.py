"""What the status page is shown of, made up: a consortium of sites in a secure run, and visitors with certificates."""

from __future__ import annotations

import hashlib
import http.client
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from coordinator.budgets import Spending
from coordinator.policy import Policy
from coordinator.records import AuditRow, MemberRow, MemberState, ModelRow, RoundRow, RunRow
from coordinator.state import (
    CohortScores,
    Participant,
    Publication,
    RoundState,
    RunState,
    RunStatus,
    SiteStatus,
    dump_round,
    dump_run,
)
from coordinator.status_page.known import Known, RunKnown, window
from protos.terms import Activity, ActivityKind, ArtefactRef, Phase, RoundId
from security.folders import LoadedIdentity
from security.keys import private_pem
from security.privacy.terms import Budget

NOW = 1_900_000_000.0
MODALITIES = ("flair", "t1", "t1ce", "t2")
HOSTILE = "<script>alert(1)</script>\"'&"


def ref(name: str) -> ArtefactRef:
    return ArtefactRef(sha256=hashlib.sha256(name.encode()).hexdigest(), size=9_800_000)


def owned(number: int) -> tuple[str, ...]:
    """Return the modalities of a site, by its number."""
    return MODALITIES if number % 5 == 0 else (MODALITIES[number % 4], MODALITIES[(number + 1) % 4])


def names(count: int) -> tuple[str, ...]:
    return tuple(f"hospital-{number:02d}" for number in range(1, count + 1))


def round_in(phase: Phase, sites: int = 8, number: int = 7, *, run: str = "glioma-2026") -> RoundState:
    """Return a round whose sites stand at different places."""
    cycle = (SiteStatus.TRAINING, SiteStatus.READY, SiteStatus.TRAINING, SiteStatus.EXPECTED)
    participants = [
        Participant(site=site, modalities=owned(index), status=cycle[index % 4])
        for index, site in enumerate(names(sites))
    ]
    participants[-1] = replace(participants[-1], status=SiteStatus.ABSENT, reason="said nothing for 120 s")
    if phase is Phase.DONE:
        participants = [replace(one, status=SiteStatus.CONTRIBUTED) for one in participants[:-1]] + participants[-1:]
    before = {int(one): 30.0 * int(one) for one in Phase if one < phase and not one.terminal}
    return RoundState(
        id=RoundId(run=run, round_number=number, attempt=1),
        phase=phase,
        began=NOW - 400.0,
        phase_began=NOW - 250.0,
        participants=tuple(participants),
        durations=before,
        reason="too few sites: 2 of 8, and 5 are needed" if phase is Phase.FAILED else "",
    )


def run_state(current: RoundState | None = None, sites: int = 8, **changes: object) -> RunState:
    """Return a secure run that is going on."""
    published = Publication(
        round_number=6,
        segments={"common": ref("common")},
        anchors=None,
        start=None,
        layout=ref("layout"),
        model=ref("model-6"),
        samples=420.0,
        scores=CohortScores(
            dice={"WT": 0.871, "TC": 0.802, "ET": 0.744},
            scored=sites - 1,
            loss=0.2134,
            sites=sites - 1,
            lead_dice={"WT": 0.889, "TC": 0.826, "ET": 0.771},
            lead_loss=0.1811,
        ),
    )
    made = RunState(
        run="glioma-2026",
        spec=ref("spec"),
        sites={site: owned(index) for index, site in enumerate(names(sites))},
        rounds=40,
        policy=Policy(aggregation="secure"),
        status=RunStatus.RUNNING,
        published=published,
        round=round_in(Phase.TRAINING, sites) if current is None else current,
        failed=1,
        previous=names(sites)[:-1],
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field


def run_row(state: RunState, created: float = NOW - 26 * 3600.0) -> RunRow:
    return RunRow(
        run=state.run,
        name=state.run,
        method="fedmepd",
        created=created,
        ended=NOW - 60.0 if state.status.terminal else None,
        status=state.status.value,
        configuration_toml="",
        state=dump_run(state),
    )


def attempts(run: str, highest: int, sites: int = 8) -> tuple[RoundRow, ...]:
    """Return rounds up to a number; the fourth needed two attempts."""
    made: list[RoundRow] = []
    for number in range(1, highest + 1):
        done = number < highest
        detail = dump_round(round_in(Phase.DONE if done else Phase.TRAINING, sites, number, run=run))
        began = NOW - 3600.0 * (highest - number) - 400.0
        row = RoundRow(
            round=RoundId(run=run, round_number=number, attempt=1),
            phase=Phase.DONE if done else Phase.TRAINING,
            began=began,
            ended=began + 3100.0 if done else None,
            reason="",
            detail=detail,
        )
        if number == 4 and done:
            failed = replace(row, phase=Phase.FAILED, ended=began + 900.0, reason="too few sites: 2 of 8")
            again = RoundId(run=run, round_number=number, attempt=2)
            made += [failed, replace(row, round=again, began=began + 950.0)]
        else:
            made.append(row)
    return tuple(made)


def models(run: str, highest: int, sites: int = 8) -> tuple[ModelRow, ...]:
    all_names = names(sites)
    return tuple(
        ModelRow(
            run=run,
            round_number=number,
            model=ref(f"model-{number}"),
            created=NOW - 3600.0 * (highest - number),
            contributors=all_names[: -1 - number % 2],
            missing=all_names[-1 - number % 2 :],
            kept=number > highest - 4,
        )
        for number in range(1, highest)
    )


def members(sites: int = 8) -> tuple[MemberRow, ...]:
    """Return members: one certificate ends soon, one site is revoked."""
    made = [
        MemberRow(
            role="site",
            member_id=site,
            modalities=owned(index),
            identity_public_key=bytes([index]) * 32,
            state=MemberState.ENROLLED,
            software="fedmepd-agent 0.1.0",
            enrolled=NOW - 30 * 86_400.0,
            serial=f"{index:040x}",
            certificate_expires=NOW + (50 - 6 * (index % 9)) * 86_400.0,
            last_seen=NOW - 20.0 * (index + 1),
        )
        for index, site in enumerate((*names(sites), "hospital-z"))
    ]
    return (*made[:-1], replace(made[-1], state=MemberState.REVOKED))


def known(state: RunState | None = None, **changes: object) -> Known:
    """Return what the page is made of while a run goes on."""
    shown = run_state() if state is None else state
    row, number = run_row(shown), 0 if shown.round is None else shown.round.id.round_number
    doing = Activity(kind=ActivityKind.TRAINING, done=6, total=10)
    run = RunKnown(
        row=row,
        state=shown,
        current=True,
        window=window(1, number),
        attempts=attempts(shown.run, number),
        models=models(shown.run, number),
        seen={site: (doing if index % 2 == 0 else None, NOW - 9.0) for index, site in enumerate(shown.sites)},
        lead=("waiting", 0, 0),
    )
    past = replace(row, run="glioma-2025", status="completed", created=NOW - 90 * 86_400.0, ended=NOW - 80 * 86_400.0)
    made = Known(
        now=NOW,
        consortium="brain.example",
        software="fedmepd 0.1.0",
        run=run,
        runs=(row, past),
        members=members(),
        admitted=frozenset(names(8)),
        list_version=3,
        minimum_cohort=5,
        spending=Spending(
            budget=Budget(epsilon=8.0, delta=1e-5),
            spent=2.37,
            unbounded=False,
            debits={"anchors": 3, "training": 6},
            releases={"anchors": 3, "training": 6},
            used=True,
            entries=20,
        ),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field


def refusal(reason: str) -> AuditRow:
    return AuditRow(
        sequence=9,
        at=NOW - 3600.0,
        actor="coordinator",
        action="privacy.refused",
        subject="run",
        outcome="refused",
        details={"reason": reason},
        previous=b"",
        hash=b"",
    )


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Visitor:
    """A browser without a screen: TLS 1.3, perhaps a certificate, and the cookie that it was given.

    Attributes:
        address: host:port of the page.
        root_pem: The root that it trusts.
        folder: For the moment of loading a key.
        certificate: Whose certificate it shows.
    """

    address: str
    root_pem: bytes
    folder: Path
    certificate: LoadedIdentity | None = None
    cookie: str = ""
    newest_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.maximum_version = self.newest_tls
        self.context.load_verify_locations(cadata=self.root_pem.decode())
        if self.certificate is not None:
            path = self.folder / f"{self.certificate.identity.id}.pem"
            path.write_bytes(private_pem(self.certificate.tls_key) + self.certificate.chain_pem)
            self.context.load_cert_chain(path)

    def ask(self, target: str, method: str = "GET", **headers: str) -> Reply:
        """Ask once; a cookie is kept as a browser keeps it."""
        split = urlsplit(target)
        path = split.path + (f"?{split.query}" if split.query else "")
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=self.context, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            sent.setdefault("Cookie", self.cookie)
        try:
            connection.request(method, path, headers=sent)
            got = connection.getresponse()
            reply = Reply(status=got.status, headers=dict(got.getheaders()), text=got.read().decode())
        finally:
            connection.close()
        if "Set-Cookie" in reply.headers:
            self.cookie = reply.headers["Set-Cookie"].partition(";")[0]
        return reply
