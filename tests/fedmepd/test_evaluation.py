from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest

from fedmepd.cli import main
from fedmepd.cohorts import open_cohort
from fedmepd.errors import CohortError, RunError
from fedmepd.evaluation import (
    CaseScore,
    bootstrap_mean,
    compare,
    read_scores_csv,
    summarise,
    write_scores_csv,
    write_scores_json,
)
from fedmepd.evaluation.files import pair_files, pair_with_cohort, score_pairs
from fedmepd.task import load_task

TASK = load_task("brats")
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def score(case, region, dice, *, member="site-1", hd95=1.0):
    return CaseScore(member=member, case=case, region=region, dice=dice, hd95=hd95)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def labels(shift=0):
    volume = np.zeros((12, 12, 8), np.uint8)
    volume[2 + shift : 9 + shift, 2:9, 2:6] = 2
    volume[4 + shift : 7 + shift, 4:7, 3:5] = 4
    volume[5 + shift, 5, 3] = 1
    return volume


@pytest.fixture
def cohort_folder(tmp_path):
    for number in (1, 2, 3):
        name = f"BraTS20_Training_{number:03d}"
        image = np.random.default_rng(number).normal(5, 1, (12, 12, 8)).astype(np.float32)
        for modality in ("flair", "t1", "t1ce", "t2"):
            save(tmp_path / "cohort" / name / f"{name}_{modality}.nii.gz", image)
        save(tmp_path / "cohort" / name / f"{name}_seg.nii.gz", labels())
    return tmp_path / "cohort"


@pytest.fixture
def predictions(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path / "predictions" / f"BraTS20_Training_{number:03d}.nii.gz", labels(number - 1))
    return tmp_path / "predictions"


def run(*words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code


class TestTable:
    def test_what_is_read_is_what_was_written(self, tmp_path):
        scores = (
            score("a", "WT", 0.5),
            score("a", "TC", 0.25, hd95=math.nan),
            score("b,c", "WT", 1),
            score("b,c", "TC", 0),
        )
        write_scores_csv(tmp_path / "scores.csv", scores)
        found = read_scores_csv(tmp_path / "scores.csv")
        assert [(s.case, s.region, s.dice) for s in found] == [(s.case, s.region, s.dice) for s in scores]
        assert math.isnan(found[1].hd95)

    def test_json_has_null_for_what_was_not_measured(self, tmp_path):
        write_scores_json(tmp_path / "scores.json", [score("a", "WT", 0.5, hd95=math.nan)])
        assert json.loads((tmp_path / "scores.json").read_text()) == [
            {"member": "site-1", "case": "a", "region": "WT", "dice": 0.5, "hd95": None}
        ]

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("site-1,a,WT,0.5", "line 2: 4 columns"),
            ("site-1,a,WT,half,1", "line 2: not a number"),
            ("site-1,a,WT,1.5,1", "line 2: Dice must lie"),
            ("site-1,a,WT,0.5,1\nsite-1,a,WT,0.5,1", "stands twice"),
            ("site-1,a,WT,0.5,1\nsite-1,a,TC,0.5,1\nsite-1,b,WT,0.5,1", "case b lacks region TC"),
        ],
    )
    def test_a_malformed_table_is_named(self, tmp_path, line, complaint):
        path = tmp_path / "scores.csv"
        path.write_text(f"member,case,region,dice,hd95\n{line}\n")
        with pytest.raises(RunError, match=complaint):
            read_scores_csv(path)

    def test_another_csv_is_refused(self, tmp_path):
        (tmp_path / "x.csv").write_text("a,b\n1,2\n")
        with pytest.raises(RunError, match="line 1: not a table of scores"):
            read_scores_csv(tmp_path / "x.csv")


class TestSummary:
    def test_rows_are_members_by_region_and_their_mean(self):
        scores = [
            score(c, r, d, member=m) for m in ("site-2", "site-1") for c in "ab" for r, d in (("WT", 0.8), ("ET", 0.4))
        ]
        rows = summarise(scores, seed=0)
        assert [(r.member, r.region, r.cases, round(r.dice.mean, 6)) for r in rows] == [
            ("site-2", "WT", 2, 0.8), ("site-2", "ET", 2, 0.4), ("site-2", "mean", 2, 0.6),
            ("site-1", "WT", 2, 0.8), ("site-1", "ET", 2, 0.4), ("site-1", "mean", 2, 0.6),
        ]  # fmt: skip

    def test_the_interval_holds_the_mean_and_shrinks_with_cases(self):
        values = np.random.default_rng(0).normal(0.6, 0.1, 200)
        few, many = bootstrap_mean(values[:10], seed=1), bootstrap_mean(values, seed=1)
        assert few.low < few.mean < few.high
        assert many.high - many.low < few.high - few.low

    def test_the_interval_has_the_width_that_theory_says(self):
        values = np.random.default_rng(0).normal(0.6, 0.1, 400)
        interval = bootstrap_mean(values, seed=1, resamples=4000)
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)

    def test_the_order_of_the_rows_changes_nothing(self):
        rng = np.random.default_rng(2)
        scores = [
            score(f"case-{i}", r, float(rng.random()), member=m) for m in "xy" for i in range(6) for r in ("WT", "TC")
        ]
        shuffled = [scores[i] for i in rng.permutation(len(scores))]
        first, second = (
            {(row.member, row.region): row for row in summarise(rows, seed=5)} for rows in (scores, shuffled)
        )
        assert all(second[key].dice.low == pytest.approx(row.dice.low, abs=1e-12) for key, row in first.items())

    def test_one_case_has_no_interval(self):
        assert math.isnan(summarise([score("a", "WT", 0.5)], seed=0)[0].dice.low)

    def test_an_unmeasured_distance_stays_unmeasured(self):
        rows = summarise([score(case, "WT", 0.5, hd95=math.nan) for case in "ab"], seed=0)
        assert all(math.isnan(row.hd95.mean) for row in rows)

    def test_an_incomplete_case_is_an_error(self):
        with pytest.raises(ValueError, match="site-1"):
            summarise([score("a", "WT", 0.5), score("a", "TC", 0.5), score("b", "WT", 0.5)], seed=0)

    def test_comparison_is_paired_by_case(self):
        better = [score(f"{i}", "WT", 0.1 * i + 0.05) for i in range(8)]
        baseline = [score(f"{i}", "WT", 0.1 * i) for i in range(9)]
        found = compare(better, baseline, seed=0)
        assert (found.cases, found.won, found.lost) == (8, 8, 0)
        # every case gains the same, so the interval is a point although the cases differ widely
        assert found.dice.low == pytest.approx(0.05) == pytest.approx(found.dice.high)

    def test_nothing_in_common_is_no_comparison(self):
        assert compare([score("a", "WT", 1)], [score("b", "WT", 1)], seed=0) is None


class TestFiles:
    def test_a_cohort_is_scored_by_case_name(self, cohort_folder, predictions):
        pairing = pair_with_cohort(predictions, open_cohort(cohort_folder))
        scores = score_pairs(pairing.pairs, TASK, member="m")
        assert [s.dice for s in scores[:3]] == [1.0, 1.0, 1.0]
        assert [s.hd95 for s in scores[:3]] == [0.0, 0.0, 0.0]
        assert 0 < scores[3].dice < 1
        assert scores[3].hd95 == 1.0

    def test_shapes_must_agree(self, cohort_folder, predictions):
        save(predictions / "BraTS20_Training_002.nii.gz", labels()[:-1])
        pairing = pair_with_cohort(predictions, open_cohort(cohort_folder))
        with pytest.raises(CohortError, match=r"case BraTS20_Training_002: .* shape \(11, 12, 8\)"):
            score_pairs(pairing.pairs, TASK, member="m")

    def test_positions_must_agree(self, cohort_folder, predictions):
        save(predictions / "BraTS20_Training_002.nii.gz", labels(), np.diag([1.0, 1.0, 2.0, 1.0]))
        pairing = pair_with_cohort(predictions, open_cohort(cohort_folder))
        with pytest.raises(CohortError, match="lie differently in space"):
            score_pairs(pairing.pairs, TASK, member="m")

    def test_an_unknown_label_value_is_named(self, cohort_folder, predictions):
        save(predictions / "BraTS20_Training_002.nii.gz", labels() * 2)
        pairing = pair_with_cohort(predictions, open_cohort(cohort_folder))
        with pytest.raises(CohortError, match=r"002.nii.gz has label value 8, which is not among 0, 1, 2, 4"):
            score_pairs(pairing.pairs, TASK, member="m")

    def test_a_single_label_file_may_follow_another_layout(self, tmp_path, predictions):
        truth = labels()
        truth[truth == 4] = 3
        save(tmp_path / "truth.nii.gz", truth)
        one = predictions / "BraTS20_Training_001.nii.gz"
        pair = pair_files(one, tmp_path / "truth.nii.gz", TASK, layout="brats2023")
        assert {s.dice for s in score_pairs([pair], TASK, member="m")} == {1.0}

    def test_two_predictions_of_a_case_are_refused(self, cohort_folder, predictions):
        save(predictions / "BraTS20_Training_001.nii", labels())
        with pytest.raises(CohortError, match="both a prediction of case"):
            pair_with_cohort(predictions, open_cohort(cohort_folder))


class TestCommand:
    def test_prints_a_table_and_writes_csv(self, cohort_folder, predictions, tmp_path, capsys):
        assert run("evaluate", predictions, cohort_folder, "--csv", tmp_path / "out.csv") == 0
        assert "WT" in capsys.readouterr().out
        assert len(read_scores_csv(tmp_path / "out.csv")) == 9

    def test_json_is_json(self, cohort_folder, predictions, capsys):
        assert run("evaluate", predictions, cohort_folder, "--json", "--no-hd95") == 0
        content = json.loads(capsys.readouterr().out)
        assert [row["region"] for row in content["summary"]] == ["WT", "TC", "ET", "mean"]
        assert content["summary"][0]["hd95"]["mean"] is None
        assert content["missing"] == []

    def test_a_missing_prediction_is_named_and_a_negative_verdict(self, cohort_folder, predictions, capsys):
        (predictions / "BraTS20_Training_003.nii.gz").unlink()
        assert run("evaluate", predictions, cohort_folder, "--no-hd95") == 1
        assert "no prediction for BraTS20_Training_003" in capsys.readouterr().err

    def test_a_single_prediction_is_scored_alone(self, cohort_folder, predictions):
        assert run("evaluate", predictions / "BraTS20_Training_002.nii.gz", cohort_folder, "--no-hd95") == 0

    def test_two_files_are_scored(self, cohort_folder, predictions, capsys):
        name = "BraTS20_Training_002"
        truth = cohort_folder / name / f"{name}_seg.nii.gz"
        assert run("evaluate", predictions / f"{name}.nii.gz", truth, "--label-layout", "brats2020", "--json") == 0
        assert len(json.loads(capsys.readouterr().out)["cases"]) == 3

    def test_a_wrong_shape_is_one_line_and_exit_code_two(self, cohort_folder, predictions, capsys):
        save(predictions / "BraTS20_Training_002.nii.gz", labels()[:-1])
        assert run("evaluate", predictions, cohort_folder) == 2
        error = capsys.readouterr().err
        assert "case BraTS20_Training_002" in error
        assert "Traceback" not in error

    def test_no_predictions_is_exit_code_two(self, cohort_folder, tmp_path):
        assert run("evaluate", tmp_path / "nowhere", cohort_folder) == 2
