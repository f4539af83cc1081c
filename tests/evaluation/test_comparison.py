"""``llmbind eval --compare``: differences, their intervals, and protocols that do not compare."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmbind_cli.metrics.bootstrap import paired_bootstrap_interval

IOU = ("--metric", "cIoU", "--metric", "gIoU", "--metric", "precision@0.5")


def masks(seed: int, *, flip: float, n: int = 30) -> dict[str, np.ndarray]:
    """Half-planes of different sizes with some pixels flipped."""
    generator = np.random.default_rng(seed)
    made = {}
    for number in range(n):
        mask = np.arange(12)[None, :] < 2 + number % 9
        mask = np.broadcast_to(mask, (8, 12)) ^ (generator.random((8, 12)) < flip)
        made[f"{number:02}"] = mask * 255
    return made


@pytest.fixture
def reports(folder, run, tmp_path):
    """Two reports of the same references: B flips fewer pixels than A."""
    true = folder("true", masks(0, flip=0))
    for name, flip in (("a", 0.2), ("b", 0.1)):
        made = folder(name, masks(1, flip=flip))
        code, _, error = run(*IOU, "--pred", made, "--ref", true, "--report", tmp_path / f"r{name}")
        assert code == 0, error
    return tmp_path / "ra" / "report.json", tmp_path / "rb" / "report.json"


def edited(path, change):
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def test_the_paired_interval_equals_the_literal_bootstrap():
    generator = np.random.default_rng(5)
    before, after = generator.random((2, 25)), generator.random((2, 25)) + 0.2
    low, high = paired_bootstrap_interval(tuple(before), tuple(after), resamples=200, seed=3)
    draws = np.random.default_rng(3).integers(0, 25, size=(200, 25))
    differences = [
        after[0][row].sum() / after[1][row].sum() - before[0][row].sum() / before[1][row].sum()
        for row in draws
    ]
    assert [low, high] == pytest.approx(np.quantile(differences, [0.025, 0.975]), rel=1e-12)


def test_paired_where_the_items_match(reports, run, tmp_path):
    code, out, error = run("--compare", *reports, "--json", "--report", tmp_path / "c")
    comparison = json.loads(out)
    assert code == 0, error
    entry = comparison["metrics"]["gIoU"]
    assert entry["difference"] == pytest.approx(entry["b"] - entry["a"])
    assert entry["method"] == "paired bootstrap over items"
    assert entry["verdict"] == "better"
    low, high = entry["interval"]
    assert low < entry["difference"] < high
    assert list(comparison["metrics"]) == ["cIoU", "gIoU", "precision@0.5"]
    assert comparison["protocol_differences"] == []
    assert json.loads((tmp_path / "c" / "comparison.json").read_text()) == comparison
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert "| gIoU ↑ |" in text
    assert "gIoU: interval paired bootstrap over items" in text
    backwards = json.loads(run("--compare", *reports[::-1], "--json")[1])["metrics"]["gIoU"]
    assert backwards["difference"] == -entry["difference"]
    assert backwards["verdict"] == "worse"


def test_pairing_narrows_the_interval(reports, run):
    paired = json.loads(run("--compare", *reports, "--json")[1])["metrics"]["gIoU"]
    reports[0].with_name("items.jsonl").unlink()
    apart = json.loads(run("--compare", *reports, "--json")[1])["metrics"]["gIoU"]
    assert apart["method"] == "from the two intervals"
    assert any("not paired" in note for note in apart["notes"])
    width = [entry["interval"][1] - entry["interval"][0] for entry in (paired, apart)]
    assert width[0] < width[1]
    entries = [json.loads(path.read_text())["metrics"]["gIoU"] for path in reports]
    (a, (low_a, high_a)), (b, (low_b, high_b)) = ((e["value"], e["interval"]) for e in entries)
    assert apart["interval"] == pytest.approx([  # Zou and Donner (2008), Eq. (5), by hand
        b - a - ((b - low_b) ** 2 + (high_a - a) ** 2) ** 0.5,
        b - a + ((high_b - b) ** 2 + (a - low_a) ** 2) ** 0.5,
    ])  # fmt: skip


def test_the_same_report_twice(reports, run):
    code, out, _ = run("--compare", reports[0], reports[0])
    assert code == 0
    assert out.count("same") == 3


def test_different_protocols_are_refused_with_every_difference(reports, run):
    def change(report):
        card = report["protocol"]["scorings"][0]
        card["references"]["sha256"] = "0" * 64
        card["parameters"]["ignore_label"] = 255
        report["protocol"]["seed"] = 9

    edited(reports[1], change)
    code, out, error = run("--compare", *reports)
    assert (code, out) == (77, "")
    assert "seed: 0 in A, 9 in B" in error
    assert "references.sha256" in error
    assert "parameters.ignore_label: None in A, 255 in B" in error
    assert "255 in B (cIoU, gIoU, precision@0.5)" in error
    assert "--allow-different-protocols" in error
    code, out, error = run("--compare", *reports, "--allow-different-protocols", "--json")
    assert code == 0
    assert len(json.loads(out)["protocol_differences"]) == 3
    assert error.count("warning: different protocols") == 3


def test_another_version_is_another_protocol(reports, run):
    edited(reports[1], lambda report: report["protocol"].update(llmbind="9.9"))
    code, _, error = run("--compare", *reports)
    assert code == 77
    assert "llmbind: " in error


def test_figures_of_one_report_alone_do_not_matter(reports, run, folder, tmp_path):
    sides = ("--pred", tmp_path / "b", "--ref", tmp_path / "true")
    run("--metric", "gIoU", *sides, "--report", tmp_path / "rc")
    code, out, error = run("--compare", reports[0], tmp_path / "rc" / "report.json", "--json")
    assert code == 0, error
    assert list(json.loads(out)["metrics"]) == ["gIoU"]
    assert json.loads(out)["only_in_a"] == ["cIoU", "precision@0.5"]


def test_paths_may_differ(reports, run):
    edited(reports[1], lambda r: r["protocol"]["scorings"][0]["references"].update(path="x"))
    assert run("--compare", *reports)[0] == 0


def test_gates_hold_the_difference(reports, run):
    assert run("--compare", *reports, "--fail-under", "gIoU=0")[0] == 0
    code, out, error = run("--compare", *reports[::-1], "--fail-under", "gIoU=-0.01")
    assert code == 4
    assert "FAILED: difference of gIoU is -" in out
    assert "must be at least -0.01" in error
    assert run("--compare", *reports, "--fail-under", "SSIM=0")[0] == 2


def test_items_of_another_run_are_refused(reports, run):
    items = reports[1].with_name("items.jsonl")
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    for row in rows:
        row["iou"] = 0.0
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, error = run("--compare", *reports)
    assert code == 65
    assert "the items are those of another run" in error


def test_what_is_no_report(reports, run, tmp_path):
    (tmp_path / "x.json").write_text('{"metrics": {}}')
    code, _, error = run("--compare", tmp_path / "x.json", reports[1])
    assert code == 65
    assert "x.json: is no report of eval" in error
    assert run("--compare", tmp_path / "none.json", reports[1])[0] == 65
    code, _, error = run("--compare", *reports, "--metric", "cIoU")
    assert code == 2
    assert "--compare does not" in error
    code, out, error = run("--compare", *reports, "--dry-run", "--report", tmp_path / "c")
    assert (code, out) == (2, "")
    assert "--dry-run" in error
    assert not (tmp_path / "c").exists()


def test_figures_without_a_value_have_no_difference(pictures, run, tmp_path):
    place, noisy = pictures("true"), pictures("noisy", noise=9)
    for name, made in (("a", place), ("b", noisy)):
        run("--metric", "PSNR", "--pred", made, "--ref", place, "--report", tmp_path / name)
    paths = tmp_path / "a" / "report.json", tmp_path / "b" / "report.json"
    code, out, _ = run("--compare", *paths, "--json")
    entry = json.loads(out)["metrics"]["PSNR"]
    assert code == 0
    assert (entry["a"], entry["difference"], entry["interval"]) == (None, None, None)
    assert any(note.startswith("A: infinite") for note in entry["notes"])
