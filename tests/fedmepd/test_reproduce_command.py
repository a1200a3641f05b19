"""`fedmepd reproduce`: the published federation in one command, here with phantoms under the data set's names."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedmepd.cli.main import app
from fedmepd.cohorts import splits
from fedmepd.errors import CohortError, RunError
from fedmepd.phantom import write_cohort

CASES = 3
TINY = ("width=4", "training.crop=16", "training.steps=1", "training.batch=1", "evaluation.window=24")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every institution has three patients."""
    folder = tmp_path_factory.mktemp("data")
    write_cohort(folder, kind="brain", cases=9 * CASES, shape=(24, 24, 24), prefix="BraTS20_Training", workers=1)
    for case in sorted(folder.glob("BraTS20_Training_*")):
        for path in case.iterdir():
            path.rename(path.with_name(path.name.replace("_00_", "_")))
        case.rename(case.with_name(case.name.replace("_00_", "_")))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each institution of the published division three of its patients."""
    whole = splits.load_institution_split("brats2020")
    members = {
        name: splits.Member(
            modalities=member.modalities,
            case_ids=tuple(f"BraTS20_Training_{CASES * n + k + 1:03d}" for k in range(CASES)),
        )
        for n, (name, member) in enumerate(whole.members.items())
    }
    made = splits.InstitutionSplit(name=whole.name, layout=whole.layout, members=members)
    monkeypatch.setattr("fedmepd.config.load_institution_split", lambda _name: made)


def reproduce(data: Path, out: Path, *more: str) -> str:
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = ["reproduce", "brats2020", str(data), "--out", str(out), "--rounds", "1", "--quiet", *settings, *more]
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_one_command_trains_compares_and_reports_and_its_repetition_changes_nothing(data: Path, tmp_path: Path) -> None:
    only = ("--preset", "improved", "--set", 'run.methods=["local","fedmepd"]')
    shown = reproduce(data, tmp_path / "run", *only)
    assert "0.759" in shown  # the paper's sites under fedmepd
    assert "site-8" in shown
    assert (tmp_path / "run" / "report.html").is_file()
    scores = (tmp_path / "run" / "methods" / "fedmepd" / "scores.csv").read_bytes()
    assert reproduce(data, tmp_path / "run", *only)
    assert (tmp_path / "run" / "methods" / "fedmepd" / "scores.csv").read_bytes() == scores
    with pytest.raises(RunError, match="another run"):
        reproduce(data, tmp_path / "run", "--preset", "paper")


def test_a_folder_without_the_published_patients_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="has no case"):
        reproduce(data, tmp_path / "run")
