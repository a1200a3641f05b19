"""What an operator does beside watching: look closely, promote a model, answer questions, press the tab key."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, patch

import pytest

from coordinator import admin_runs
from coordinator.cli.admin import completion, main
from coordinator.pruning import Pruner
from coordinator.retention import Limits
from coordinator.state import RunStatus
from tests.coordinator.admin_at_hand import listed, site, start
from tests.coordinator.served import Said, Served, command, served


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as made:
        yield made


@pytest.fixture
def fed(_shared: Served) -> Served:
    _shared.runs.scene = None
    return _shared


class Terminal(io.StringIO):
    """Input that somebody types."""

    def isatty(self) -> bool:
        return True


def answering(fed: Served, answer: str, *words: object) -> Said:
    """Run a command at a terminal where somebody answers."""
    with patch("tests.coordinator.served.io.StringIO", side_effect=[io.StringIO(), io.StringIO(), Terminal(answer)]):
        return fed.admin(*words)


# -- looking closely ------------------------------------------------------------------------------------------------


def test_all_that_is_known_of_a_site_is_shown(fed: Served) -> None:
    site(fed, "jena", "flair", "t1")
    assert fed.admin("membership", "sign", "--consortium-dir", fed.folder / "consortium", "--yes").code == 0
    said = fed.admin("sites", "show", "jena")
    assert said.code == 0, said.err
    facts = {line[:14].strip(): line[14:] for line in said.out.splitlines()}
    assert (facts["site"], facts["state"], facts["modalities"]) == ("jena", "member", "flair, t1")
    assert facts["software"] == "test 1"
    assert facts["took part"] == "in no round of the latest run"
    assert facts["signed list"].endswith(", flair, t1")
    found = json.loads(fed.admin("sites", "show", "jena", "--json").out)
    assert found["listed"]["modalities"] == ["flair", "t1"]
    assert fed.admin("sites", "show", "nobody").code == 2


def test_rounds_that_a_site_took_part_in_are_counted(fed: Served) -> None:
    site(fed, "a", "t1")
    start(fed)
    said = fed.admin("sites", "show", "a")
    assert "took part     run rounds 1 to 1: 1 expected" in said.out
    assert json.loads(fed.admin("sites", "show", "a", "--json").out)["rounds"][0]["round"] == 1


def test_a_member_of_any_role_is_shown(fed: Served) -> None:
    said = fed.admin("members", "show", "admin", "alice")
    assert said.code == 0, said.err
    assert said.out.startswith("admin         alice\n")
    assert "signed list" not in said.out


def test_a_run_is_shown_with_its_sites_and_what_it_was_started_with(fed: Served) -> None:
    start(fed)
    said = fed.admin("runs", "show")
    assert said.code == 0, said.err
    assert "sites    3: a, b, c" in said.out
    assert "round 1/2" in said.out
    assert fed.admin("runs", "show", "--config").out == "\n"  # the played run has an empty one
    found = json.loads(fed.admin("runs", "show", "run", "--json").out)
    assert (found["view"]["run"], found["configuration_toml"]) == ("run", "")
    assert fed.admin("runs", "show", "nothing").code == 2


def test_a_run_is_checked_without_being_started(fed: Served) -> None:
    configuration = fed.folder / "run.toml"
    configuration.write_text("run\n")
    said = fed.admin("runs", "start", configuration, "--dry-run")
    assert said.code == 0, said.err
    assert said.out == "nothing speaks against it: it would start as the secure run run\n"
    assert "common" in said.err
    assert fed.runs.scene is None
    assert fed.admin("runs", "start", configuration, "--dry-run", "--watch").code == 2
    start(fed)
    refused = fed.admin("runs", "start", configuration, "--dry-run")
    assert (refused.code, "is running" in refused.err) == (2, True)


def test_the_policy_in_force_is_shown_with_every_key(fed: Served) -> None:
    from coordinator.policy import Policy

    start(fed)
    said = fed.admin("policy", "show")
    assert said.code == 0, said.err
    for name in Policy.model_fields:
        assert name in said.out
    assert "a round needs" in said.out
    found = json.loads(fed.admin("policy", "show", "run", "--json").out)
    assert found["run"] == "run"
    assert set(found["policy"]) == set(Policy.model_fields)
    assert "configuration_toml" not in found


def test_the_latest_round_is_shown_unless_one_is_named(fed: Served) -> None:
    assert fed.admin("rounds", "show").code == 2
    start(fed)
    said = fed.admin("rounds", "show")
    assert said.out == fed.admin("rounds", "show", "1", "--run", "run").out
    assert said.out.startswith("run round 1: training\n")
    assert "sites  3: 3 expected" in said.out
    assert "phase" in said.out


# -- promoting ------------------------------------------------------------------------------------------------------


def test_one_version_of_a_run_is_promoted_and_exported_by_default(fed: Served) -> None:
    start(fed)
    for number in (1, 2, 3):
        fed.put_model(number, b"model %d" % number)
    said = fed.admin("models", "promote", "run", "1")
    assert said.code == 0, said.err
    assert said.out.startswith("run round 1 is promoted: hospitals should use ")
    target = fed.folder / "promoted"
    assert "run round 1, promoted" in fed.admin("models", "export", target).out
    assert target.read_bytes() == b"model 1"
    moved = fed.admin("models", "promote", "run", "2", "--yes")
    assert moved.out.startswith("run round 2 is promoted instead of round 1")
    assert [bool(m["promoted"]) for m in listed(fed, "models", "list")] == [False, True, False]
    assert "promoted" in fed.admin("models", "list").out
    assert "run round 2" in fed.admin("models", "show").out
    assert "run round 3" in fed.admin("models", "show", "--round", "3").out
    record = [one for one in listed(fed, "audit", "list") if one["action"] == "model.promoted"][-1]
    assert (record["subject"], record["details"]["before"]) == ("run/2", "1")


def test_promoting_again_changes_nothing(fed: Served) -> None:
    start(fed)
    fed.put_model(5, b"five")
    others = [m["round"] for m in listed(fed, "models", "list") if m["promoted"]]
    assert fed.admin("models", "promote", "run", "5", *(["--yes"] if others else [])).code == 0
    before = listed(fed, "audit", "list", "--last", "0")
    assert fed.admin("models", "promote", "run", "5").code == 0
    assert listed(fed, "audit", "list", "--last", "0") == before


def test_what_is_not_kept_is_not_promoted(fed: Served) -> None:
    start(fed)
    fed.put_model(7, b"gone", kept=False)
    for words in (("run", "7"), ("run", "99"), ("nothing", "1")):
        said = fed.admin("models", "promote", *words, "--yes")
        assert said.code == 2, words


def test_an_auditor_promotes_nothing(fed: Served) -> None:
    token = fed.admin("tokens", "create", "aud", "--role", "auditor").out
    assert fed.enrol(token, "aud", "auditor").code == 0
    start(fed)
    fed.put_model(8, b"eight")
    said = fed.admin("models", "promote", "run", "8", "--yes", who="aud")
    assert (said.code, "may not call PromoteModel" in said.err) == (2, True)
    assert fed.admin("policy", "show", who="aud").code == 0


# -- questions ------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_without_an_answer(fed: Served) -> None:
    site(fed, "kiel", "t2")
    token = json.loads(fed.admin("tokens", "create", "lena", "--json").out)["token_id"]
    start(fed)
    for words in (
        ("runs", "abort"),
        ("sites", "revoke", "kiel", "--reason", "x"),
        ("members", "revoke", "site", "kiel", "--reason", "x"),
        ("tokens", "revoke", token),
    ):
        said = fed.admin(*words)
        assert (said.code, "add --yes" in said.err) == (2, True), words
    assert fed.runs.state(None).status is RunStatus.RUNNING
    assert [m["state"] for m in listed(fed, "sites", "list") if m["id"] == "kiel"] == ["enrolled"]
    assert [t["state"] for t in listed(fed, "tokens", "list") if t["token_id"] == token] == ["open"]


@pytest.mark.parametrize(
    ("answer", "code", "state"), [("n\n", 1, "running"), ("", 1, "running"), ("y\n", 0, "aborted")]
)
def test_a_question_names_what_is_lost(fed: Served, answer: str, code: int, state: str) -> None:
    start(fed)
    said = answering(fed, answer, "runs", "abort")
    assert said.code == code
    assert "Abort run run? Round 1 of 2 (training) is lost" in said.err
    assert fed.runs.state(None).status.value == state


def test_other_questions_name_whom_they_are_about(fed: Served) -> None:
    site(fed, "metz", "t1")
    token = json.loads(fed.admin("tokens", "create", "nils", "--json").out)["token_id"]
    start(fed)
    fed.put_model(20, b"a")
    fed.put_model(21, b"b")
    assert fed.admin("models", "promote", "run", "20", "--yes").code == 0
    questions = {
        ("sites", "revoke", "metz", "--reason", "x"): "Revoke site metz (enrolled, training 3/12)?",
        ("tokens", "revoke", token): f"Revoke token {token} of site nils (open)?",
        ("models", "promote", "run", "21"): "Promote round 21 instead? Round 20 loses the mark",
    }
    for words, question in questions.items():
        said = answering(fed, "n\n", *words)
        assert (said.code, question in said.err) == (1, True), said


def test_publishing_a_list_that_drops_sites_asks(fed: Served) -> None:
    site(fed, "oslo", "t1")
    where = ("--consortium-dir", fed.folder / "consortium")
    assert fed.admin("membership", "sign", *where, "--yes").code == 0
    assert fed.admin("sites", "revoke", "oslo", "--reason", "x", "--yes").code == 0
    signed = fed.folder / "without-oslo.json"
    assert fed.admin("membership", "sign", *where, "--yes", "--out", signed).code == 0
    refused = fed.admin("membership", "publish", signed)
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    asked = answering(fed, "n\n", "membership", "publish", signed)
    assert (asked.code, "It drops oslo" in asked.err) == (1, True)
    assert "is in force" in fed.admin("membership", "publish", signed, "--yes").out


def test_signing_a_prepared_list_that_is_published_at_once_asks_too(fed: Served) -> None:
    site(fed, "riga", "t1")
    where = ("--consortium-dir", fed.folder / "consortium")
    assert fed.admin("membership", "sign", *where, "--yes").code == 0
    assert fed.admin("sites", "revoke", "riga", "--reason", "x", "--yes").code == 0
    prepared = fed.folder / "without-riga.json"
    assert fed.admin("membership", "prepare", prepared).code == 0
    asked = answering(fed, "n\n", "membership", "sign", prepared, *where)
    assert (asked.code, "It drops riga" in asked.err) == (1, True), asked
    assert "is in force" in fed.admin("membership", "sign", prepared, *where, "--yes").out


# -- pages ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_page_by_page(fed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    start(fed)
    for number in range(60, 67):
        fed.put_model(number, b"model %d" % number, kept=number % 2 == 0)
    before = listed(fed, "models", "list")
    monkeypatch.setattr(admin_runs, "_MOST_MODELS", 3)
    assert listed(fed, "models", "list") == before
    monkeypatch.setattr(admin_runs, "_PAGE_BYTES", 1)
    assert listed(fed, "models", "list", "run") == [model for model in before if model["run"] == "run"]
    assert "66" in completed(fed, "models", "promote", "run", "6")
    assert json.loads(fed.admin("models", "show", "--round", "61", "--json").out)["round"] == 61


# -- completion -----------------------------------------------------------------------------------------------------


def completed(fed: Served, *words: str) -> list[str]:
    """Return what bash offers after some words, the last of which is being typed."""
    typed = " ".join(("fedmepd-admin", *words)).rstrip()
    environment = {
        "_FEDMEPD_ADMIN_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words)),
        "FEDMEPD_ADMIN_IDENTITY": str(fed.folder / "alice"),
    }
    with patch.dict(os.environ, environment):
        said = command(main)
    assert (said.code, said.err) == (0, "")
    return said.out.split()


def test_values_are_completed_by_what_there_is(fed: Served) -> None:
    site(fed, "paris", "t1")
    token = json.loads(fed.admin("tokens", "create", "quito", "--json").out)["token_id"]
    start(fed)
    fed.put_model(31, b"x")
    assert completed(fed, "runs", "watch", "") == ["run"]
    assert completed(fed, "runs", "watch", "z") == []
    assert completed(fed, "sites", "show", "pa") == ["paris"]
    assert "alice" in completed(fed, "members", "revoke", "admin", "")
    assert "paris" not in completed(fed, "members", "revoke", "admin", "")
    assert completed(fed, "tokens", "revoke", token[:5]) == [token]
    assert completed(fed, "rounds", "show", "") == ["1"]
    assert completed(fed, "models", "promote", "run", "31") == ["31"]
    assert completed(fed, "models", "export", "x", "--run", "r") == ["run"]


def test_what_cannot_be_asked_completes_nothing(fed: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    context = Mock(params={"identity": tmp_path})
    assert completion.runs(context, "") == []
    broken = tmp_path / "moved"
    broken.mkdir()
    for file in (fed.folder / "alice").iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
            (broken / file.name).chmod(file.stat().st_mode)
    (broken / "coordinator.json").write_text('{"members": "127.0.0.1:1", "newcomers": "127.0.0.1:1"}')
    context.params = {"identity": broken}
    assert completion.sites(context, "") == []
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_bash_asks_the_program_itself(fed: Served) -> None:
    start(fed)
    environment = {
        **os.environ,
        "_FEDMEPD_ADMIN_COMPLETE": "complete_bash",
        "COMP_WORDS": "fedmepd-admin runs watch r",
        "COMP_CWORD": "3",
        "FEDMEPD_ADMIN_IDENTITY": str(fed.folder / "alice"),
    }
    code = "from coordinator.cli.admin import main; main([])"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == ["run"], done.stderr
    assert done.stderr == ""


def test_a_promoted_model_is_kept_whatever_the_policy_says(fed: Served, tmp_path: Path) -> None:
    start(fed)
    for number in (41, 42):
        fed.put_model(number, b"model %d" % number)
    assert fed.admin("models", "promote", "run", "41", "--yes").code == 0
    pruner = Pruner(store=fed.store, blobs=fed.blobs, scratch=tmp_path, uploads=None, limits=Limits(rounds=9, days=9))
    scene = fed.runs.scene
    assert scene is not None
    published = Mock(round_number=4999)
    pruner._forget_models(Mock(run="run", published=published, policy=scene.state.policy), lambda: None)
    kept = {m["round"] for m in listed(fed, "models", "list") if m["kept"]}
    assert 41 in kept
    assert 42 not in kept
