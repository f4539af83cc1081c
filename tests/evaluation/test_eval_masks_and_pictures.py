"""``llmbind eval`` on masks and pairs of pictures, from the command line to the report."""

from __future__ import annotations

import json
import os
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from llmbind_cli.metrics.psnr import psnr
from llmbind_cli.metrics.ssim import ssim

FULL, EMPTY = [[255, 255, 255, 255]], [[0, 0, 0, 0]]
MADE = {"a": [[255, 255, 0, 0]], "b": EMPTY, "c": FULL}
TRUE = {"a": [[255, 0, 255, 0]], "b": EMPTY, "c": FULL}  # I/U: 1/3, empty, 4/4
IOU = ("--metric", "cIoU", "--metric", "gIoU")


def test_scores_equal_the_count_by_hand(folder, run):
    sides = ("--pred", folder("made", MADE), "--ref", folder("true", TRUE))
    code, out, _ = run(*IOU, *sides, "--json")
    metrics = json.loads(out)["metrics"]
    assert code == 0
    assert metrics["cIoU"]["value"] == pytest.approx(5 / 7)
    assert metrics["gIoU"]["value"] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert metrics["cIoU"]["n"] == metrics["gIoU"]["n"] == 3
    for entry in metrics.values():
        low, high = entry["interval"]
        assert 0 <= low <= entry["value"] <= high <= 1
        assert entry["higher_is_better"] is True


def test_a_failed_gate_comes_after_the_full_report(folder, run, tmp_path):
    sides = ("--pred", folder("made", MADE), "--ref", folder("true", TRUE))
    gates = ("--fail-under", "cIoU=0.9", "--fail-under", "gIoU=0.1", "--report", tmp_path / "r")
    code, out, error = run(*IOU, *sides, *gates)
    assert code == 4
    assert "FAILED: cIoU is 0.714286, must be at least 0.9" in out
    assert "passed: gIoU is 0.777778, must be at least 0.1" in out
    assert "llmbind: error: cIoU is 0.714286, must be at least 0.9" in error
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [gate["passed"] for gate in report["gates"]] == [False, True]
    assert report["gates"][0] == {
        "metric": "cIoU",
        "rule": "at least",
        "bound": 0.9,
        "value": pytest.approx(5 / 7),
        "passed": False,
    }
    suite = ET.parse(tmp_path / "r" / "junit.xml").getroot()[0]  # noqa: S314  our own file
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert len(suite.findall("testcase/failure")) == 1
    text = (tmp_path / "r" / "report.md").read_text()
    assert "## llmbind eval: 1 of 2 gates failed" in text
    assert "| cIoU at least 0.9 | 0.714286 | **failed** |" in text
    rows = [json.loads(row) for row in (tmp_path / "r" / "items.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[1] == {
        "scoring": None, "family": "masks", "id": "b", "intersection": 0, "union": 0, "iou": 1.0,
    }  # fmt: skip


def test_the_protocol_names_what_a_figure_depends_on(folder, run):
    made, true = folder("made", MADE), folder("true", TRUE)
    _, out, _ = run(*IOU, "--pred", made, "--ref", true, "--seed", 5, "--json")
    protocol = json.loads(out)["protocol"]
    (card,) = protocol["scorings"]
    assert protocol["seed"] == 5
    assert protocol["llmbind"]
    assert card["predictions"]["path"] == str(made)
    assert (card["predictions"]["count"], card["predictions"]["kind"]) == (3, "folder")
    assert card["predictions"]["sha256"] != card["references"]["sha256"]
    assert card["parameters"] == {"ignore_label": None}
    assert [metric["name"] for metric in card["metrics"]] == ["cIoU", "gIoU"]


def test_two_runs_write_the_same_report(folder, run, tmp_path):
    sides = ("--pred", folder("made", MADE), "--ref", folder("true", TRUE))
    for name in ("one", "two"):
        run(*IOU, *sides, "--report", tmp_path / name)
    for name in ("report.json", "report.md", "junit.xml", "items.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_ignored_label_must_be_named(folder, run):
    true = folder("true", {"a": [[1, 255, 0]], "b": [[1, 0, 0]]})
    sides = ("--pred", folder("made", {"a": [[1, 1, 0]], "b": [[1, 1, 0]]}), "--ref", true)
    code, _, error = run(*IOU, *sides)
    assert code == 65
    assert "a.png: has 1, 255 beside 0" in error
    code, out, _ = run(*IOU, *sides, "--ignore-label", 255, "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["cIoU"]["value"] == pytest.approx(2 / 3)


def test_foreground_that_is_1_here_and_255_there_is_refused(folder, run):
    true = folder("true", {"a": [[1, 0]], "b": [[255, 0]]})
    made = folder("made", {"a": [[1, 0]], "b": [[255, 0]]})
    code, _, error = run(*IOU, "--pred", made, "--ref", true)
    assert code == 65
    assert "foreground is 1 in a.png, 255 in b.png" in error
    code, _, error = run(*IOU, "--pred", made, "--ref", true, "--ignore-label", 7)
    assert code == 65
    assert "foreground is 1 in a.png, 255 in b.png" in error
    classes = folder("classes", {"a": [[1, 255]], "b": [[2, 0]]})  # 255 is named: any other counts
    assert run(*IOU, "--pred", made, "--ref", classes, "--ignore-label", 255)[0] == 0


def test_references_without_foreground_are_pointed_out(folder, run):
    true = folder("true", {"a": [[255, 0]]})
    sides = ("--pred", folder("made", {"a": [[0, 0]]}), "--ref", true, "--ignore-label", 255)
    code, _, error = run(*IOU, *sides)
    assert code == 0
    assert "no reference has a pixel of foreground" in error


def test_every_fault_is_listed_and_nothing_is_scored(folder, run, tmp_path):
    arrays = {name: np.random.default_rng(0).integers(0, 2, (40, 40)) for name in "abcd"}
    made, true = folder("made", arrays), folder("true", arrays | {"b": np.zeros((40, 41))})
    content = (made / "a.png").read_bytes()
    (made / "a.png").write_bytes(content[: len(content) // 2])
    (made / "c.png").write_bytes(b"ID3 this is no picture")
    code, out, error = run(*IOU, "--pred", made, "--ref", true, "--report", tmp_path / "r")
    assert (code, out) == (65, "")
    assert "masks: 3 inputs cannot be scored" in error
    assert "a.png: cannot be read as a mask" in error
    assert "b.png: is 40 × 40 px, but its reference" in error
    assert "is 41 × 40 px; nothing is resized" in error
    assert "c.png: cannot be read as a mask" in error
    assert "d.png" not in error
    assert list((tmp_path / "r").iterdir()) == []


def test_missing_ids_end_it(folder, run):
    made, true = folder("made", {"a": FULL}), folder("true", {"a": FULL, "b": FULL})
    code, out, error = run(*IOU, "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert "lacks 1 of the 2 ids" in error


def test_pictures_equal_the_functions_pair_by_pair(pictures, run):
    made, true = pictures("made", noise=20), pictures("true", noise=0)
    both = ("--metric", "SSIM", "--metric", "PSNR", "--pred", made, "--ref", true)
    code, out, _ = run(*both, "--json")
    from PIL import Image

    pairs = [[np.asarray(Image.open(side / f"{i}.png")) for side in (made, true)] for i in range(5)]
    metrics = json.loads(out)["metrics"]
    assert code == 0
    assert metrics["PSNR"]["value"] == pytest.approx(np.mean([psnr(*pair) for pair in pairs]))
    assert metrics["SSIM"]["value"] == pytest.approx(np.mean([ssim(*pair) for pair in pairs]))


def test_equal_pictures_have_no_finite_psnr_and_valid_json(pictures, run, tmp_path):
    place = pictures("true")
    both = ("--metric", "PSNR", "--metric", "SSIM", "--pred", place, "--ref", place)
    gates = ("--fail-under", "PSNR=40", "--report", tmp_path / "r")
    code, out, _ = run(*both, *gates)
    assert code == 0
    assert "∞" in out
    assert "passed: PSNR is infinite, must be at least" in out
    report = json.loads((tmp_path / "r" / "report.json").read_text(), parse_constant=pytest.fail)
    entry = report["metrics"]["PSNR"]
    assert entry["value"] is None
    assert entry["notes"] == ["infinite: all 5 pairs are equal pixel by pixel"]
    assert report["metrics"]["SSIM"]["value"] == pytest.approx(1.0)
    rows = (tmp_path / "r" / "items.jsonl").read_text().splitlines()
    assert json.loads(rows[0], parse_constant=pytest.fail)["PSNR"] is None


def test_one_equal_pair_gives_no_mean_and_passes_no_gate(pictures, run):
    made, true = pictures("made", noise=20), pictures("true", noise=0)
    (true / "0.png").write_bytes((made / "0.png").read_bytes())
    sides = ("--metric", "PSNR", "--pred", made, "--ref", true)
    code, out, error = run(*sides, "--fail-under", "PSNR=1")
    assert code == 4
    assert "FAILED: PSNR is not a number, must be at least 1" in out
    assert "error: PSNR is not a number, must be at least 1" in error
    assert "no mean: 1 of 5 pairs are equal" in error


def test_pictures_that_ssim_cannot_take(pictures, run):
    place = pictures("small", side=4)
    code, _, error = run("--metric", "SSIM", "--pred", place, "--ref", place)
    assert code == 65
    assert "SSIM needs sides of at least 6 px" in error


def test_a_report_that_cannot_be_written_fails_first(folder, run, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, error = run(
        *IOU, "--pred", tmp_path / "none", "--ref", tmp_path, "--report", tmp_path / "file"
    )
    assert code == 73
    assert "needs a folder" in error


def test_the_first_of_several_pictures_of_a_request_is_scored(folder, write_lines, run):
    true = folder("true", {"a": FULL, "b": FULL})
    folder("made", {"1": EMPTY, "2": FULL, "3": FULL})
    names = {"1": "a", "2": "a", "3": "b"}
    lines = [
        {"id": item, "status": "ok", "prompt": name, "files": [{"path": f"{name}.png"}]}
        for name, item in names.items()
    ]
    sides = ("--pred", write_lines("made/m.jsonl", *lines), "--ref", true)
    code, _, error = run("--metric", "PSNR", *sides)
    assert code == 65
    assert "--first-of-each" in error
    code, out, _ = run("--metric", "PSNR", *sides, "--first-of-each", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["metrics"]["PSNR"]["n"] == 2
    assert "of 1 of 2 requests the first file alone" in report["metrics"]["PSNR"]["notes"]
    (card,) = report["protocol"]["scorings"]
    assert card["parameters"]["first_of_each"] is True


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--metric", "ciou"], "did you mean cIoU"),
        (["--metric", "IoU-lite"], "no such metric"),
        (["--metric", "cIoU", "--metric", "cIoU"], "given twice"),
        (["--metric", "segmentation", "--metric", "gIoU"], "--metric gIoU: given twice"),
        (["--metric", "segmentatoin"], "no such metric; did you mean segmentation?"),
        (["--metric", "cIoU", "--fail-under", "SSIM=1"], "this run gives cIoU only"),
        (["--metric", "PSNR", "--ignore-label", "255"], "is for masks"),
        (["--metric", "cIoU", "--first-of-each"], "is for media"),
        (["--metric", "PSNR", "--cache-size", "nan"], "--cache-size: must be finite, got nan"),
        (["--metric", "PSNR", "--cache-size", "inf"], "--cache-size: must be finite, got inf"),
        (["--metric", "PSNR", "--model", "other"], "no bundle is loaded"),
        (["recipe.toml", "--metric", "PSNR"], "the recipe says this"),
    ],
)
def test_wrong_usage_ends_before_any_work(run, tmp_path, arguments, problem):
    code, out, error = run(*arguments, "--pred", tmp_path / "none", "--ref", tmp_path / "none")
    assert (code, out) == (2, "")
    assert problem in error


def test_names_of_any_bytes_reach_the_report(folder, run, tmp_path):
    place = folder("true", {"Möwe 🐦": FULL, "b": FULL})
    odd = tmp_path / os.fsdecode(b"odd-\xff")
    place.rename(odd)
    (odd / "b.png").rename(odd / os.fsdecode(b"b\xfe.png"))
    code, out, _ = run(*IOU, "--pred", odd, "--ref", odd, "--json", "--report", tmp_path / "r")
    assert code == 0
    card = json.loads(out)["protocol"]["scorings"][0]["predictions"]
    assert card["path"].endswith("odd-\\udcff")
    rows = (tmp_path / "r" / "items.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["Möwe 🐦", "b\udcfe"]


def test_pictures_of_other_sizes_are_listed_and_never_resized(pictures, run):
    made, true = pictures("made", n=2, side=16), pictures("true", n=2, side=17)
    code, out, error = run("--metric", "PSNR", "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert "pictures: 2 inputs cannot be scored" in error
    assert "made/1.png: is 16 × 16 px, but its reference" in error
    assert "true/1.png is 17 × 17 px; nothing is resized" in error


def test_one_item_has_no_interval(folder, run):
    place = folder("true", {"a": FULL})
    _, out, _ = run(*IOU, "--pred", place, "--ref", place, "--json")
    assert [entry["interval"] for entry in json.loads(out)["metrics"].values()] == [None, None]
