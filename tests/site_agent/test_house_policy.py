"""The hospital's own policy: what it forbids is refused, by default nothing leaves in clear, and it fails closed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fedmepd.plan import dump_plan, parse_plan
from fedmepd.runspec import make_spec
from protos.terms import DeclineCause
from site_agent.approvals import Approvals, Kind, Subject, configuration_of
from site_agent.cli.main import run as main
from site_agent.config import load_config
from site_agent.doctor import Verdict
from site_agent.doctor.policy import examine_policy
from site_agent.errors import ConfigError, RefusalError, StateError
from site_agent.policy_file import Policy
from site_agent.rules import Rules
from site_agent.run_checks import check_allowed, members_of
from tests.site_agent.agent_at_hand import Noted, config_of
from tests.site_agent.secure_cohort import OWN, Cohort, plan_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AGENT = """
[agent]
data = "data"
coordinator = "localhost:1"
[cohort]
path = "cohort"
modalities = ["flair"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(AGENT)
    return path


def policy(**sections):
    return Policy.model_validate(sections)


# -- the file -------------------------------------------------------------------------------------------------------


def test_without_a_file_nothing_leaves_in_clear_and_four_sites_are_demanded(file, tmp_path):
    found = Policy.of(load_config(file))
    assert found == Policy()
    assert not found.aggregation.plain
    assert found.minimum(Cohort(tmp_path / "c").listed) == 4


def test_a_file_beside_the_configuration_is_in_force_and_another_one_can_be_named(file, tmp_path):
    (tmp_path / "policy.toml").write_text("[aggregation]\nminimum_cohort = 6\n")
    assert Policy.of(load_config(file)).aggregation.minimum_cohort == 6
    (tmp_path / "other.toml").write_text("[aggregation]\nminimum_cohort = 7\n")
    file.write_text(AGENT.replace("[agent]", '[agent]\npolicy = "other.toml"'))
    assert Policy.of(load_config(file)).aggregation.minimum_cohort == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[aggregation]\nplane = true", "unknown key 'aggregation.plane' (known here: plain, minimum_cohort"),
        ("[summing]\nplain = true", "unknown key 'summing'"),
        ('[aggregation]\nplain = "yes"', "aggregation.plain"),
        ("[aggregation]\nminimum_cohort = 2", "aggregation.minimum_cohort"),
        ("[aggregation]\nminimum_cohort = 4.0", "aggregation.minimum_cohort"),
        ("[aggregation]\nassumed_colluders = -1", "aggregation.assumed_colluders"),
        ('[allow]\nmethods = ["fedmepd", "fedavrg"]', "is no method"),
        ('[approval]\nruns = "nobody"', "approval.runs"),
        ("[privacy]\ndp_floor = nan", "privacy.dp_floor"),
        ("[aggregation", "not TOML"),
    ],
)
def test_a_wrong_policy_keeps_the_agent_from_running(file, tmp_path, text, words):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Policy.of(load_config(file))
    assert words in str(caught.value)
    assert "does not run without its policy" in str(caught.value)


def test_a_policy_that_is_named_but_missing_is_no_default(file):
    file.write_text(AGENT.replace("[agent]", '[agent]\npolicy = "gone.toml"'))
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        Policy.of(load_config(file))


def test_a_link_that_leads_nowhere_is_no_default(file, tmp_path):
    (tmp_path / "policy.toml").symlink_to(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        Policy.of(load_config(file))


def test_limits_are_tightened_and_never_loosened(tmp_path):
    config = config_of(tmp_path, "localhost:1", "localhost:2", ("t1",), max_update_bytes=100, max_download_bytes=100)
    tightened = policy(limits={"max_update_bytes": 10, "max_download_bytes": 1000}).tightened(config)
    assert (tightened.limits.max_update_bytes, tightened.limits.max_download_bytes) == (10, 100)
    assert Policy().tightened(config) == config


# -- runs -----------------------------------------------------------------------------------------------------------


def allowed(found, *, listed_minimum=3, counted=None, sites=OWN, aggregation="secure", least=4, run="r"):
    spec = make_spec(plan_of(min_contributors=least), run_id=run, sites=sites, aggregation=aggregation)
    minimum = max(found.aggregation.minimum_cohort, listed_minimum)
    check_allowed(spec, found, minimum=minimum, counted=counted, site="a")


def clause_of(found, **options):
    with pytest.raises(RefusalError) as caught:
        allowed(found, **options)
    assert caught.value.cause is DeclineCause.POLICY
    return caught.value.clause


FOUR = {site: OWN[site] for site in "abcd"}
THREE = {site: OWN[site] for site in "abc"}
AGREED = policy(aggregation={"minimum_cohort": 3})


@pytest.mark.parametrize(
    ("found", "options", "clause"),
    [
        (Policy(), {}, None),
        (Policy(), {"aggregation": "plain"}, "aggregation.plain"),
        (policy(aggregation={"plain": True}), {"aggregation": "plain"}, None),
        (policy(aggregation={"plain": True}), {"aggregation": "plain", "least": 1}, None),
        (Policy(), {"sites": FOUR}, None),
        (Policy(), {"sites": THREE}, "aggregation.minimum_cohort"),
        (AGREED, {"sites": THREE, "least": 3}, None),
        (AGREED, {"sites": THREE, "least": 3, "listed_minimum": 4}, "aggregation.minimum_cohort"),
        (Policy(), {"least": 3}, "aggregation.minimum_cohort"),
        (AGREED, {"least": 3}, None),
        (policy(aggregation={"assumed_colluders": 3}), {}, None),
        (policy(aggregation={"assumed_colluders": 4}), {}, "aggregation.minimum_cohort"),
        (Policy(), {"counted": frozenset("bcde")}, None),
        (Policy(), {"counted": frozenset("bcd"), "least": 5}, None),
        (Policy(), {"counted": frozenset("bcd")}, "aggregation.minimum_cohort"),
        (Policy(), {"counted": frozenset("bc"), "least": 6}, "aggregation.minimum_cohort"),
        (policy(allow={"runs": ["brats-*"]}), {"run": "brats-1"}, None),
        (policy(allow={"runs": ["brats-*"]}), {}, "allow.runs"),
        (policy(allow={"runs": []}), {}, "allow.runs"),
        (policy(allow={"methods": ["fedmepd"]}), {}, None),
        (policy(allow={"methods": ["fedavg"]}), {}, "allow.methods"),
        (policy(privacy={"dp_floor": 8.0}), {}, "privacy.dp_floor"),
        (policy(privacy={"dp_floor": 8.0}, aggregation={"plain": True}), {"aggregation": "plain"}, "privacy.dp_floor"),
    ],
)
def test_the_policy_decides_about_a_run(found, options, clause):
    if clause is None:
        allowed(found, **options)
    else:
        assert clause_of(found, **options) == f"policy {clause}"


# -- approvals ------------------------------------------------------------------------------------------------------


def rules_of(tmp_path, **approval):
    return Rules(policy=policy(approval=approval), approvals=Approvals(tmp_path), site="a", notes=Noted())


SPEC = make_spec(plan_of(), run_id="r", sites=OWN)


def test_a_run_waits_for_a_person_and_goes_on_when_it_is_approved(tmp_path):
    rules = rules_of(tmp_path, runs="person")
    reason = rules.waiting(SPEC, "f" * 64)
    assert reason == "waiting for a person's approval: fedmepd-agent policy approve run/r"
    (subject,) = rules.approvals.waiting()
    assert subject.about == "fedmepd, 2 rounds, 5 sites, secure"
    rules.approvals.decide(rules.approvals.find("run/r"), approved=True, by="kim", at=NOW, reason="ethics vote 7")
    assert rules.waiting(SPEC, "f" * 64) == ""
    assert rules.approvals.waiting() == ()
    assert rules.notes.records == [
        (
            "policy.approved",
            "run/r",
            "accepted",
            {"by": "kim", "at": NOW.isoformat(), "reason": "ethics vote 7", "fingerprint": "f" * 64},
        )
    ]
    rules.waiting(SPEC, "f" * 64)
    assert len(rules.notes.records) == 1, "a decision is on record once"


def test_an_approval_is_of_this_specification_and_not_of_its_name(tmp_path):
    rules = rules_of(tmp_path, runs="person")
    rules.waiting(SPEC, "f" * 64)
    rules.approvals.decide(rules.approvals.find("run/r"), approved=True, by="kim", at=NOW)
    assert "run/r" in rules.waiting(SPEC, "e" * 64)


def test_an_approved_configuration_covers_later_runs_with_the_same_plan(tmp_path):
    rules = rules_of(tmp_path, configurations="person")
    digest = configuration_of(SPEC.plan)
    assert f"configuration/{digest}" in rules.waiting(SPEC, "f" * 64)
    rules.approvals.decide(rules.approvals.find(f"configuration/{digest}"), approved=True, by="kim", at=NOW)
    assert rules.waiting(replace(SPEC, run_id="later"), "e" * 64) == ""
    data = dump_plan(SPEC.plan)
    changed = parse_plan({**data, "training": {**data["training"], "local_epochs": 2}}, source="")
    assert "configuration/" in rules.waiting(replace(SPEC, plan=changed), "d" * 64)


def test_what_a_person_denies_is_refused_and_what_is_approved_after_that_is_not(tmp_path):
    rules = rules_of(tmp_path, runs="person")
    rules.waiting(SPEC, "f" * 64)
    subject = rules.approvals.find("run/r")
    rules.approvals.decide(subject, approved=False, by="kim", at=NOW, reason="no vote")
    with pytest.raises(RefusalError, match="a person at the site denied this run") as caught:
        rules.waiting(SPEC, "f" * 64)
    assert caught.value.clause == "policy approval.runs"
    assert rules.notes.of("policy.denied")[0][3]["reason"] == "no vote"
    rules.approvals.decide(rules.approvals.find("run/r"), approved=True, by="kim", at=NOW)
    assert rules.waiting(SPEC, "f" * 64) == ""


def test_members_count_once_a_person_has_approved_their_key(tmp_path):
    cohort = Cohort(tmp_path / "c")
    rules, spec = rules_of(tmp_path, members="person"), make_spec(plan_of(min_contributors=8), run_id="r", sites=OWN)
    rules.seen(cohort.listed)
    assert [str(one) for one in rules.approvals.waiting()] == ["member/b", "member/c", "member/d", "member/e"]
    assert rules.counted(cohort.listed) == frozenset()
    with pytest.raises(RefusalError, match="1 sites that count"):
        rules.check(spec, cohort.listed)
    for site in "bcd":
        rules.approvals.decide(rules.approvals.find(f"member/{site}"), approved=True, by="kim", at=NOW)
    assert rules.counted(cohort.listed) == frozenset("bcd")
    rules.check(spec, cohort.listed)
    rules.seen(cohort.listed)
    assert [str(one) for one in rules.approvals.waiting()] == ["member/e"]
    with_new_key = Cohort(tmp_path / "again").listed
    assert rules.counted(with_new_key) == frozenset(), "another key is another member"


@pytest.mark.parametrize("members", ["list", "person"])
@pytest.mark.parametrize("aggregation", ["secure", "plain"])
def test_a_run_with_a_member_that_was_denied_is_refused_in_every_mode(tmp_path, members, aggregation):
    listed, approvals = Cohort(tmp_path / "c").listed, Approvals(tmp_path)
    subjects = members_of(listed, "a")
    found = policy(approval={"members": members}, aggregation={"plain": True})
    rules = Rules(policy=found, approvals=approvals, site="a", notes=Noted())
    for subject in subjects:
        approvals.decide(subject, approved=True, by="kim", at=NOW)
    spec = make_spec(plan_of(min_contributors=4), run_id="r", sites=OWN, aggregation=aggregation)
    rules.check(spec, listed)
    approvals.decide(approvals.find("member/e"), approved=False, by="kim", at=NOW, reason="no contract")
    with pytest.raises(RefusalError, match="a person at this site denied") as caught:
        rules.check(spec, listed)
    assert caught.value.clause == "policy approval.members"
    assert "member/e" not in caught.value.problem, "which one stays at the site"
    rules.check(make_spec(plan_of(min_contributors=4), run_id="r", sites=FOUR, aggregation=aggregation), listed)
    approvals.decide(approvals.find("member/e"), approved=True, by="kim", at=NOW)
    rules.check(spec, listed)


def test_a_denied_member_stays_denied_under_another_key(tmp_path):
    rules = rules_of(tmp_path)
    rules.approvals.decide(members_of(Cohort(tmp_path / "c").listed, "a")[-1], approved=False, by="kim", at=NOW)
    with pytest.raises(RefusalError, match="denied"):
        rules.check(make_spec(plan_of(min_contributors=4), run_id="r", sites=OWN), Cohort(tmp_path / "d").listed)


def test_a_member_can_be_denied_where_the_list_is_enough_and_nothing_waits(capsys, file, tmp_path, monkeypatch):
    listed = Cohort(tmp_path / "c").listed
    monkeypatch.setattr("site_agent.cli.policy._listed", lambda _: listed)
    code, out, _ = call(capsys, "policy", "deny", "member/e", "--reason", "no contract", "--config", file)
    assert (code, "denied member/e" in out) == (0, True)
    (decision,) = Approvals(tmp_path / "data").decisions()
    assert decision.subject.fingerprint == listed.members[-1].identity_key.hex()


def test_decisions_are_read_once_however_many_members_there_are(tmp_path, monkeypatch):
    listed, rules, reads = Cohort(tmp_path / "c").listed, rules_of(tmp_path, members="person"), []
    read = Approvals.decisions
    monkeypatch.setattr(Approvals, "decisions", lambda found: reads.append(1) or read(found))
    rules.counted(listed)
    assert len(reads) == 1


def test_where_the_list_is_enough_everybody_counts_and_nothing_waits(tmp_path):
    rules = rules_of(tmp_path)
    listed = Cohort(tmp_path / "c").listed
    rules.seen(listed)
    assert rules.counted(listed) is None
    assert rules.waiting(SPEC, "f" * 64) == ""
    assert rules.approvals.waiting() == ()


@pytest.mark.parametrize("name", ["decisions.jsonl", "waiting.json"])
def test_damaged_files_of_approvals_are_named_and_approve_nothing(tmp_path, name):
    approvals = Approvals(tmp_path)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / name).write_text('{"kind": "run"}\n')
    with pytest.raises(StateError, match="damaged"):
        approvals.decisions() if name == "decisions.jsonl" else approvals.waiting()


def test_a_decision_that_a_crash_left_unfinished_is_none(tmp_path):
    approvals = Approvals(tmp_path)
    subject = Subject(kind=Kind.RUN, id="r", fingerprint="f" * 64)
    approvals.decide(subject, approved=True, by="kim", at=NOW)
    path = tmp_path / "policy" / "decisions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert approvals.verdict(subject) is None
    approvals.decide(subject, approved=True, by="kim", at=NOW)
    assert path.read_bytes() == whole


# -- the commands ---------------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err


def test_a_person_sees_what_waits_approves_it_and_sees_that(capsys, file, tmp_path):
    rules_of(tmp_path / "data", runs="person").waiting(SPEC, "f" * 64)
    config = ("--config", file)
    code, out, _ = call(capsys, "policy", "show", *config)
    assert (code, "run/r  fedmepd, 2 rounds, 5 sites, secure" in out) == (0, True)
    assert "defaults; no policy.toml" in out
    assert "aggregation.plain = false" in out
    code, out, _ = call(capsys, "policy", "approve", "run/r", *config)
    assert (code, "approved run/r" in out) == (0, True)
    code, out, _ = call(capsys, "policy", "show", "--json", *config)
    found = json.loads(out)
    assert found["decisions"][0]["name"] == "run/r"
    assert found["decisions"][0]["approved"]
    assert found["policy"]["aggregation"]["minimum_cohort"] == 4


def test_a_denial_needs_a_reason_and_an_approval_something_that_waits(capsys, file, tmp_path):
    rules_of(tmp_path / "data", runs="person").waiting(SPEC, "f" * 64)
    config = ("--config", file)
    assert call(capsys, "policy", "deny", "run/r", *config)[0] == 2
    code, _, err = call(capsys, "policy", "approve", "run/other", *config)
    assert (code, "nothing called 'run/other' waits" in err) == (2, True)
    assert call(capsys, "policy", "deny", "run/r", "--reason", "no vote", *config)[0] == 0
    assert "denied run/r: no vote" in call(capsys, "policy", "show", *config)[1]


def test_policy_check_names_every_fault(capsys, file, tmp_path):
    assert "the defaults are in force" in call(capsys, "policy", "check", "--config", file)[1]
    wrong = tmp_path / "policy.toml"
    wrong.write_text("[aggregation]\nminimum_cohort = 1\nplane = true\n")
    code, _, err = call(capsys, "policy", "check", wrong)
    assert (code, "minimum_cohort" in err, "plane" in err) == (2, True, True)
    wrong.write_text("[aggregation]\nminimum_cohort = 5\n")
    assert call(capsys, "policy", "check", "--config", file)[1] == f"{wrong}: ok\n"


def test_status_says_what_waits_for_a_person(capsys, file, tmp_path):
    from site_agent.status import StatusFile

    rules_of(tmp_path / "data", runs="person").waiting(SPEC, "f" * 64)
    status = StatusFile(tmp_path / "data")
    status.now.aggregation, status.now.step = "secure", "share"
    status.write()
    _, out, _ = call(capsys, "status", "--config", file)
    assert "secure, last step share" in out
    assert "to approve   run/r" in out
    assert json.loads(call(capsys, "status", "--config", file, "--json")[1])["approvals"] == ["run/r"]


def test_names_that_wait_complete_a_command(file, tmp_path):
    from types import SimpleNamespace

    from site_agent.cli.policy import _completed

    rules_of(tmp_path / "data", runs="person").waiting(SPEC, "f" * 64)
    assert _completed(SimpleNamespace(params={"config": file}), "run/") == ["run/r"]
    assert _completed(SimpleNamespace(params={"config": file}), "member/") == []
    assert _completed(SimpleNamespace(params={"config": tmp_path / "gone.toml"}), "") == []


# -- the doctor -----------------------------------------------------------------------------------------------------


def examined(file):
    return {finding.what: finding for finding in examine_policy(load_config(file))}


def test_the_doctor_looks_at_policy_approvals_and_the_keys_of_rounds(file, tmp_path):
    found = examined(file)
    assert (found["policy"].verdict, found["rounds"].verdict) == (Verdict.OK, Verdict.SKIP)
    rules_of(tmp_path / "data", runs="person").waiting(SPEC, "f" * 64)
    (tmp_path / "policy.toml").write_text("[aggregation]\nplain = true\n")
    found = examined(file)
    assert (found["policy"].verdict, found["approvals"].verdict) == (Verdict.WARN, Verdict.WARN)
    (tmp_path / "policy.toml").write_text("[aggregation]\nplain = 1\n")
    assert examined(file)["policy"].verdict is Verdict.FAIL


def test_the_doctor_names_what_others_could_read(file, tmp_path):
    folder = tmp_path / "data" / "secagg" / "r" / "000001-0001"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o700)
    key = folder / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    assert examined(file)["rounds"].verdict is Verdict.OK
    key.chmod(0o640)
    found = examined(file)["rounds"]
    assert (found.verdict, str(key) in found.text) == (Verdict.FAIL, True)
