from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedmepd.errors import RunError
from fedmepd.evaluation import read_scores_csv
from fedmepd.report import write_report
from fedmepd.report.anchors import project
from fedmepd.report.comparison import comparison
from fedmepd.report.curves import dice_panels
from fedmepd.report.overlays import overlay_cards
from fedmepd.report.run import read_run
from fedmepd.report.score_tables import ALL_SITES, score_table

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects elements and complains about tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def find(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


@pytest.fixture(scope="module")
def html(run_folder):
    return write_report(run_folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_a_folder_of_the_lead_alone_shows_what_the_sums_told_of_the_sites(fresh_run):
    facts = json.loads((fresh_run / "run.json").read_text())
    members = [member for member in facts["members"] if member["role"] == "server"]
    edit(fresh_run / "run.json", members=members)
    metrics = fresh_run / "methods/fedmepd/metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    for line in lines:
        if line["phase"] == "aggregate" and line["round"] > 1:
            line |= {"scored": 6, "dice": {"WT": 0.9, "TC": 0.5, "ET": 0.1}, "loss": 1.0}
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines if line["member"] in {"server", "federation"}))
    mean, server = dice_panels(read_run(fresh_run))
    assert (mean.title, server.title) == ("Mean of the sites", "server")
    assert f"rounds 1 to {facts['rounds']}" in mean.chart
    assert re.search(r"At the end: [^,]* 0\.50\.", mean.chart)


class TestPage:
    def test_is_written_into_the_run_folder_by_default(self, run_folder, html):
        assert (run_folder / "report.html").read_text(encoding="utf-8") == html

    def test_is_well_formed(self, page):
        assert page.open == []
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = [a["href"] for _, a in page.elements if a.get("href", "").startswith("#")]
        assert targets
        assert {target[1:] for target in targets} <= set(ids)

    def test_needs_nothing_from_elsewhere(self, page, html):
        links = [a[key] for _, a in page.elements for key in ("href", "src", "srcset") if key in a]
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
        assert not page.find("script", "link", "iframe")
        assert not re.search(r"url\(|@import", html)
        outside = set(re.findall(r"https?://[^\"'\s<]+", html))
        assert outside == {"http://www.w3.org/2000/svg"}

    def test_stays_small(self, html):
        assert len(html.encode()) < 2_000_000

    def test_every_heading_cell_says_what_it_heads(self, page):
        assert {a.get("scope") for a in page.find("th")} == {"col", "row", "rowgroup", "colgroup"}

    def test_every_drawing_has_words(self, page):
        for attributes in page.find("svg"):
            assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]

    def test_adapts_to_dark_phone_and_print(self, html):
        for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 34rem", 'name="viewport"'):
            assert rule in html

    def test_names_members_methods_and_terms(self, page):
        for word in ("server", "site-6", "FedMEPD", "local only", "FedAvg", "HD95", "necrosis", "warm_up = 0.2"):
            assert word in page.words

    def test_escapes_what_files_say(self, fresh_run):
        edit(fresh_run / "run.json", name="<script>alert(1)</script>")
        (fresh_run / "run.toml").write_text("note = '</pre><b>'")
        text = write_report(fresh_run).read_text()
        assert "<script>" not in text
        assert "</pre><b>" not in text

    def test_can_be_written_elsewhere(self, fresh_run, tmp_path):
        assert write_report(fresh_run, tmp_path / "new" / "r.html") == tmp_path / "new" / "r.html"

    def test_is_the_same_every_time(self, fresh_run, tmp_path):
        first, second = (write_report(fresh_run, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
        assert first == second


class TestNumbers:
    def test_the_headline_is_the_paired_difference_over_the_sites(self, run_folder, page):
        scores = [read_scores_csv(run_folder / "methods" / name / "scores.csv") for name in ("fedmepd", "local")]
        own, other = (np.mean([s.dice for s in found if s.member != "server"]) for found in scores)
        found = comparison(read_run(run_folder), "fedmepd", "local")
        assert found.sites.difference.dice.mean == pytest.approx(own - other, abs=1e-6)
        assert f"{own - other:+.3f}" in page.words
        assert found.sites.difference.cases == 24
        assert found.compared_sites == 6

    def test_the_server_is_no_site(self, run_folder):
        found = comparison(read_run(run_folder), "fedmepd", "local")
        assert "server" in [row.title for row in found.rows]
        assert "server" not in (*found.better_sites, *found.worse_sites)

    def test_the_best_method_of_a_row_is_marked(self, run_folder):
        table = score_table(read_run(run_folder), "dice")
        assert table.groups[0].title == ALL_SITES
        for group in table.groups:
            for row in group.rows:
                values = [float(cell.mean) for cell in row.cells]
                assert [cell.best for cell in row.cells] == [value == max(values) for value in values]

    def test_less_distance_is_better(self, run_folder):
        row = score_table(read_run(run_folder), "hd95").groups[0].rows[0]
        best = min(row.cells, key=lambda cell: float(cell.mean))
        assert best.best

    def test_projection_keeps_distances_in_a_plane(self):
        flat = np.random.default_rng(0).normal(size=(7, 2))
        turned = flat @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 2)))[0].T + 3
        projected, explained = project(turned)
        assert sum(explained) == pytest.approx(1)
        distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (flat, projected)]
        assert np.allclose(*distances)

    def test_pictures_of_one_slice_are_stored_once(self, run_folder, html):
        cards = overlay_cards(read_run(run_folder))
        assert [card.member for card in cards] == ["server", *(f"site-{i}" for i in range(1, 7))]
        assert len(cards[2].images) == 2
        assert len(cards[2].outlines) == 4
        assert html.count("data:image/png;base64,") == sum(len(card.images) for card in cards)

    def test_methods_that_show_other_slices_get_cards_of_their_own(self, fresh_run):
        path = fresh_run / "methods" / "local" / "overlays" / "site-2.npz"
        with np.load(path) as stored:
            content = dict(stored)
        np.savez(path, **{**content, "case": "another"})
        cards = [card for card in overlay_cards(read_run(fresh_run)) if card.member == "site-2"]
        assert [len(card.outlines) for card in cards] == [2, 3]

    def test_an_overlay_without_any_label_is_drawn(self, fresh_run):
        for name in ("fedmepd", "local", "fedavg"):
            path = fresh_run / "methods" / name / "overlays" / "site-1.npz"
            with np.load(path) as stored:
                content = dict(stored)
            empty = np.zeros_like(content["truth"])
            np.savez(path, **{**content, "truth": empty, "prediction": empty, "image": content["image"] * 0})
        assert "site-1" in Page(write_report(fresh_run).read_text()).words


class TestUnfinishedRuns:
    def test_an_interrupted_run_says_what_is_missing(self, fresh_run):
        edit(fresh_run / "run.json", finished=None, seconds=None, rounds=50)
        for name in ("local", "fedavg"):
            shutil.rmtree(fresh_run / "methods" / name)
        for name in ("scores.csv", "anchors.safetensors", "overlays"):
            path = fresh_run / "methods" / "fedmepd" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (fresh_run / "run.toml").unlink()
        words = Page(write_report(fresh_run).read_text()).words
        for sentence in (
            "This run is not finished: FedMEPD reached round 4 of 50; local only has not begun",
            "There are no test scores yet",
            "There are no overlays yet",
            "No method of this run has stored anchors yet",
            "holds no run.toml",
        ):
            assert sentence in words

    def test_a_run_that_has_only_begun_has_a_report(self, fresh_run):
        edit(fresh_run / "run.json", finished=None)
        shutil.rmtree(fresh_run / "methods")
        words = Page(write_report(fresh_run).read_text()).words
        assert "Nothing was validated yet" in words
        assert "Nothing was trained yet" in words

    def test_half_a_last_line_is_left_out(self, fresh_run):
        path = fresh_run / "methods" / "local" / "metrics.jsonl"
        before = read_run(fresh_run).methods[1].metrics
        path.write_text(path.read_text() + '{"round": 5, "memb')
        assert read_run(fresh_run).methods[1].metrics == before

    def test_a_round_that_was_run_again_counts_once(self, fresh_run):
        path = fresh_run / "methods" / "local" / "metrics.jsonl"
        again = {"round": 4, "member": "site-1", "phase": "train", "loss": 0.5, "seconds": 9.0, "steps": 8}
        path.write_text(path.read_text() + json.dumps(again) + "\n")
        lines = [line for line in read_run(fresh_run).methods[1].metrics.train if line.member == "site-1"]
        assert [line.seconds for line in lines] == [1.4, 1.4, 1.4, 9.0]

    def test_one_method_alone_is_reported(self, fresh_run):
        edit(fresh_run / "run.json", methods=["local"])
        assert "local only" in Page(write_report(fresh_run).read_text()).words

    def test_not_a_number_is_a_gap_in_a_curve(self, fresh_run):
        path = fresh_run / "methods" / "local" / "metrics.jsonl"
        worse = {
            "round": 4,
            "member": "site-1",
            "phase": "validate",
            "dice": {"WT": float("nan")},
            "mean": float("nan"),
        }
        path.write_text(path.read_text() + json.dumps(worse) + "\n")
        assert "nan" not in Page(write_report(fresh_run).read_text()).words.split()

    def test_many_layers_are_gathered_into_groups(self, fresh_run):
        layers = {f"level{i % 4 + 1}.part{i % 3}.conv{i}": 0.5 for i in range(86)}
        line = {"round": 4, "member": "site-1", "phase": "personal", "total": 0.5, "layers": layers}
        (fresh_run / "methods" / "fedmepd" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        words = Page(write_report(fresh_run).read_text()).words
        assert "Mean over the layers of each group" in words
        assert "level4.part2.conv11" in words


class TestMalformedRuns:
    def test_another_folder_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="not a run folder"):
            write_report(tmp_path)

    def test_a_wrong_field_is_named(self, fresh_run):
        edit(fresh_run / "run.json", rounds="many")
        with pytest.raises(RunError, match=r"run.json: field 'rounds'"):
            write_report(fresh_run)

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("{", "line 1: not JSON"),
            ("[]", "line 1: not a JSON object"),
            ('{"phase": "train", "round": 1, "member": "x", "loss": 1, "seconds": -1, "steps": 1}', "field 'seconds'"),
            ('{"phase": "validate", "round": 1, "member": "x", "dice": {}}', "field 'mean'"),
        ],
    )
    def test_a_malformed_metrics_line_is_named(self, fresh_run, line, complaint):
        (fresh_run / "methods" / "local" / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(RunError, match=complaint):
            write_report(fresh_run)

    def test_a_malformed_score_is_named(self, fresh_run):
        path = fresh_run / "methods" / "local" / "scores.csv"
        path.write_text(path.read_text() + "site-1,x,WT,good,1\n")
        with pytest.raises(RunError, match=r"scores.csv, line 86: not a number"):
            write_report(fresh_run)

    def test_a_corrupted_binary_file_is_named(self, fresh_run):
        anchors = fresh_run / "methods" / "fedmepd" / "anchors.safetensors"
        good = anchors.read_bytes()
        anchors.write_bytes(b"nothing")
        with pytest.raises(RunError, match="not an anchor file"):
            write_report(fresh_run)
        anchors.write_bytes(good)
        (fresh_run / "methods" / "local" / "overlays" / "site-1.npz").write_bytes(b"nothing")
        with pytest.raises(RunError, match=r"site-1.npz: not an overlay"):
            write_report(fresh_run)

    def test_anchors_of_another_shape_are_named(self, fresh_run):
        path = fresh_run / "methods" / "fedmepd" / "anchors.safetensors"
        save_file({"level1": np.zeros((4, 4, 8), np.float32), "present": np.ones((4, 3), np.bool_)}, path)
        with pytest.raises(RunError, match="present must be"):
            write_report(fresh_run)
