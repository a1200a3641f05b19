"""`fedmepd phantom`: what a person types and reads."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest
import typer
from typer.testing import CliRunner

from fedmepd.cli.phantom import register
from fedmepd.errors import PhantomError


def run(*words: object) -> str:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, PhantomError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_says_what_it_wrote_and_what_to_type_next(tmp_path: Path) -> None:
    out = tmp_path / "my phantoms"
    said = run(out, "--cases", 2, "--size", "24x28x24", "--institution", 3)
    assert "2 brain phantoms of 24x28x24 voxels, institution 3" in said
    assert f"fedmepd cohort check '{out}'" in said
    assert sorted(path.name for path in out.iterdir()) == ["Phantom_03_001", "Phantom_03_002"]


def test_one_number_is_a_cube_and_the_other_kind_has_its_own_modalities(tmp_path: Path) -> None:
    run(tmp_path, "--cases", 1, "--size", 24, "--kind", "head-neck", "--modalities", "mr")
    assert nib.load(tmp_path / "Phantom_00_001" / "Phantom_00_001_mr.nii.gz").shape == (24, 24, 24)
    assert not (tmp_path / "Phantom_00_001" / "Phantom_00_001_ct.nii.gz").exists()


def test_a_federation_gets_a_folder_per_member(tmp_path: Path) -> None:
    said = run(tmp_path / "fed", "--cases", 1, "--size", 20, "--federation", 2)
    assert sorted(path.name for path in (tmp_path / "fed").iterdir()) == ["server", "site-1", "site-2"]
    assert "site-2: 1 brain phantoms" in said


def test_refuses_to_overwrite_unless_forced(tmp_path: Path) -> None:
    run(tmp_path, "--cases", 1, "--size", 20)
    with pytest.raises(PhantomError, match="--force"):
        run(tmp_path, "--cases", 1, "--size", 20)
    run(tmp_path, "--cases", 1, "--size", 20, "--force")


@pytest.mark.parametrize("size", ["big", "48x48", "1x2x3x4", "48x48x"])
def test_a_wrong_size_is_named(tmp_path: Path, size: str) -> None:
    with pytest.raises(PhantomError, match=size):
        run(tmp_path, "--size", size)
