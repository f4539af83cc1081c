"""Masks as COCO run lengths, categories, precision at bounds, LISA's digits, emission rates."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmbind_cli.data.rle import coco_rle, encode_runs
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.mask_set import mask_of, read_mask_set
from llmbind_cli.metrics.iou import combine, pair_counts

IOU = ("--metric", "cIoU", "--metric", "gIoU")


def blobs(n: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:23, :31]
    made = {}
    for number in range(n):
        top, left, radius = generator.integers([5, 5, 3], [18, 26, 9])
        made[f"{number}"] = np.hypot(y - top, x - left) < radius
    return made


def lines(masks, *, compressed: bool = True, **more):
    for item, mask in masks.items():
        rle = coco_rle(mask)
        if not compressed:
            rle["counts"] = encode_runs(mask)
        yield {"id": item, "segmentation": rle, **{k: v[item] for k, v in more.items()}}


def test_run_lengths_score_as_the_pictures_do(folder, write_lines, run):
    made, true = blobs(seed=1), blobs(seed=2)
    pictures = (
        folder("m", {k: v * 255 for k, v in made.items()}),
        folder("t", {k: v * 255 for k, v in true.items()}),
    )
    rle = (
        write_lines("made.jsonl", *lines(made)),
        write_lines("true.jsonl", *lines(true, compressed=False)),
    )
    outs = []
    for sides in (pictures, rle, (pictures[0], rle[1])):
        code, out, error = run(*IOU, "--pred", sides[0], "--ref", sides[1], "--json")
        assert code == 0, error
        outs.append(json.loads(out))
    assert outs[0]["metrics"] == outs[1]["metrics"] == outs[2]["metrics"]
    assert outs[1]["protocol"]["scorings"][0]["references"]["kind"] == "rle"


def test_run_lengths_equal_pycocotools():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for mask in [*blobs(40).values(), np.zeros((5, 7), bool), np.ones((5, 7), bool)]:
        theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert coco_rle(mask) == {"size": theirs["size"], "counts": theirs["counts"].decode()}
        np.testing.assert_array_equal(
            mask_of({"size": theirs["size"], "counts": theirs["counts"].decode()}), mask
        )


def test_a_frozen_run_length():
    # pycocotools 2.0.11: encode(asfortranarray([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]))
    mask = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    assert encode_runs(mask) == [3, 2, 1, 2, 3, 1]
    assert coco_rle(mask) == {"size": [3, 4], "counts": "32102O"}
    np.testing.assert_array_equal(mask_of({"size": [3, 4], "counts": "32102O"}), mask)


def test_coco_annotations_have_categories_and_polygons(tmp_path, write_lines, run):
    mask = np.zeros((10, 10), bool)
    mask[2:6, 2:6] = True
    coco = {
        "images": [{"id": 7, "height": 10, "width": 10}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": coco_rle(mask)},
            {"id": 2, "image_id": 7, "category_id": 3,
             "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]},
        ],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    found = read_mask_set(tmp_path / "coco.json")
    assert list(found.items) == ["1", "2"]
    for item in found.items.values():
        assert item.category == "cat"
        np.testing.assert_array_equal(item.load(), mask)
    made = write_lines("made.jsonl", *lines({"1": mask, "2": mask}))
    code, out, error = run(*IOU, "--pred", made, "--ref", tmp_path / "coco.json", "--json")
    assert code == 0, error
    details = json.loads(out)["details"]["masks"]
    assert details["categories"] == {"cat": {"n": 2, "cIoU": 1.0, "gIoU": 1.0}}


def test_categories_by_hand(write_lines, run):
    made, true = blobs(seed=1), blobs(seed=2)
    names = {item: "ab"[int(item) % 2] for item in made}
    sides = (
        "--pred", write_lines("m.jsonl", *lines(made)),
        "--ref", write_lines("t.jsonl", *lines(true, category=names)),
    )  # fmt: skip
    report = json.loads(run(*IOU, *sides, "--json")[1])
    for name, figures in report["details"]["masks"]["categories"].items():
        pairs = [pair_counts(made[i], true[i]) for i in made if names[i] == name]
        assert figures["cIoU"] == pytest.approx(combine(pairs).ciou)
        assert figures["n"] == 6


def test_precision_at_bounds_by_hand(folder, run):
    true = {"a": [[255] * 10], "b": [[255] * 10], "c": [[255] * 10]}
    made = {"a": [[255] * 5 + [0] * 5], "b": [[255] * 9 + [0]], "c": [[0] * 10]}
    names = [f"precision@{bound}" for bound in (0.5, 0.6, 0.7, 0.8, 0.9)]
    asked = [word for name in names for word in ("--metric", name)]
    sides = ("--pred", folder("made", made), "--ref", folder("true", true))
    metrics = json.loads(run(*asked, *sides, "--json")[1])["metrics"]
    # The bound itself counts: 5 of 10 pixels reach 0.5, and 9 of 10 reach 0.9.
    assert [metrics[name]["value"] for name in names] == pytest.approx([2 / 3, *[1 / 3] * 4])


def test_segmentation_means_all_figures_of_masks(folder, run):
    sides = ("--pred", folder("m", blobs(seed=1)), "--ref", folder("t", blobs(seed=2)), "--json")
    bounds = [f"precision@0.{tenth}" for tenth in range(5, 10)]
    one_by_one = [word for name in ("cIoU", "gIoU", *bounds) for word in ("--metric", name)]
    expected, found = (
        json.loads(run(*named, *sides)[1]) for named in (one_by_one, ("--metric", "segmentation"))
    )
    assert found["metrics"] == expected["metrics"]


def test_lisa_s_digits(folder, run):
    """The literal accumulation of dvlab-research/LISA 3cb2d43, train_ds.py, validate."""
    generator = np.random.default_rng(0)
    true = {f"{n}": generator.choice([0, 1, 255], (9, 11), p=[0.6, 0.3, 0.1]) for n in range(8)}
    true["empty"] = np.zeros((9, 11), int)
    made = {item: generator.integers(0, 2, (9, 11)) for item in true}
    made["empty"] = np.zeros((9, 11), int)
    total, ious = np.zeros(2), []
    for item, target in true.items():
        output = np.where(target == 255, 255, made[item])
        shared = np.sum((output == 1) & (target == 1))
        union = np.sum(output == 1) + np.sum(target == 1) - shared
        total += shared, union
        ious.append(shared / (union + 1e-5) + (union == 0))
    sides = ("--pred", folder("made", made), "--ref", folder("true", true))
    code, out, error = run(*IOU, *sides, "--compat", "lisa", "--json")
    report = json.loads(out)
    assert code == 0, error
    assert report["metrics"]["cIoU"]["value"] == pytest.approx(total[0] / (total[1] + 1e-10))
    assert report["metrics"]["gIoU"]["value"] == pytest.approx(np.mean(ious), rel=1e-12)
    exact = json.loads(run(*IOU, *sides, "--ignore-label", 255, "--json")[1])["metrics"]
    assert exact["gIoU"]["value"] != report["metrics"]["gIoU"]["value"]
    (card,) = report["protocol"]["scorings"]
    assert card["parameters"] == {"ignore_label": 255, "compat": "lisa"}
    assert run("--metric", "PSNR", *sides, "--compat", "lisa")[0] == 2


def test_lisa_s_digits_of_empty_masks_alone(folder, run, tmp_path):
    empty = {item: [[0, 0]] for item in "abc"}
    sides = ("--pred", folder("made", empty), "--ref", folder("true", empty))
    code, out, error = run(*IOU, *sides, "--compat", "lisa", "--json", "--report", tmp_path / "r")
    assert code == 0, error
    entry = json.loads(out)["metrics"]["cIoU"]
    assert (entry["value"], entry["interval"]) == (0, [0, 0])
    code, out, error = run("--compare", *[tmp_path / "r" / "report.json"] * 2)
    assert code == 0, error
    assert out.count("same") == 2


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"id": "a", "segmentation": {"size": [2, 2], "counts": [3]}}, "add up to 2 × 2"),
        ({"id": "a", "segmentation": {"size": [2, 2], "counts": "\x01"}}, "no compressed run"),
        ({"id": "a", "segmentation": {"size": [2], "counts": [4]}}, "size must be"),
        ({"id": "a", "segmentation": {"size": [10**5, 10**5], "counts": [10**10]}}, "nothing that"),
        ({"id": "a", "segmentation": {"size": [2, 2]}}, "counts must be"),
        ({"id": "a", "segmentation": [[0, 0, 1, 0, 1, 1]]}, "need the size of their image"),
        ({"id": "a", "segmentation": {"size": [2, 2], "counts": [10**20]}}, "add up to 2 × 2"),
        ({"id": "a", "segmentation": {"size": [2, 2], "counts": [4, 10**20, -(10**20)]}},
         "add up to 2 × 2"),
        ({"id": "a", "category_id": [1], "segmentation": {"size": [2, 2], "counts": [4]}},
         "category_id must be a number or a text"),
        ({"segmentation": {"size": [1, 1], "counts": [1]}}, "neither id nor image_id"),
        ({"id": "b"}, "b has no segmentation"),
    ],
)  # fmt: skip
def test_broken_run_lengths_are_named(write_lines, run, entry, problem):
    good = {"id": "z", "segmentation": {"size": [2, 2], "counts": [4]}}
    made = write_lines("made.jsonl", entry, good)
    true = write_lines("true.jsonl", good | {"id": "a"}, good)
    code, out, error = run(*IOU, "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert problem in error
    assert "made.jsonl" in error


def test_ids_of_run_lengths_are_unique(write_lines):
    row = {"image_id": 3, "segmentation": {"size": [2, 2], "counts": [4]}}
    with pytest.raises(InputDataError, match="several masks share an id: 3"):
        read_mask_set(write_lines("m.jsonl", row, row))


def manifest_line(item, status="ok", task="segment", **more):
    return {"id": item, "status": status, "task": task, "prompt": "", "files": [], **more}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": [1]}, "images must be a list of objects"),
        ({"images": 7}, "images must be a list of objects"),
        ({"categories": ["cat"]}, "categories must be a list of objects"),
        ({"images": [{"id": [7], "height": 4, "width": 4}]}, "id must be a number or a text"),
        ({"segmentation": [{"a": 1}]}, "a polygon is a list of numbers"),
        ({"segmentation": [[0, 0, 4, 0, 4]]}, "a polygon is a list of numbers"),
        ({"segmentation": [[0, 0, 4, 0, 4, float("nan")]]}, "corners must be within"),
        ({"segmentation": [[0, 0, 4, 0, 4, 1e300]]}, "corners must be within"),
        ({"image_id": [7]}, "image_id must be a number or a text"),
    ],
)
def test_broken_coco_files_are_named(tmp_path, run, change, problem):
    mask = {"id": 1, "image_id": 7, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    coco = {"images": [{"id": 7, "height": 4, "width": 4}], "annotations": [mask]}
    (mask if change.keys() <= mask.keys() else coco).update(change)
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    sides = ("--pred", tmp_path / "coco.json", "--ref", tmp_path / "coco.json")
    code, out, error = run(*IOU, *sides)
    assert (code, out) == (65, "")
    assert problem in error
    assert "coco.json" in error


def test_a_manifest_s_extra_is_an_object(folder, write_lines, run):
    true = folder("true", {"a": [[255, 0]]})
    made = write_lines("true/m.jsonl", manifest_line("a", files=[{"path": "a.png"}], extra="note"))
    code, out, error = run(*IOU, "--pred", made, "--ref", true)
    assert (code, out) == (65, "")
    assert "m.jsonl:1: a: extra must be an object" in error


def numbered(n: int):
    """Masks whose ids are numbers."""
    rle = {"size": [2, 2], "counts": [1, 3]}
    return [{"image_id": number, "segmentation": rle} for number in range(n)]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_samples_count_masks_of_any_file(tmp_path, write_lines, run, suffix):
    true = write_lines("true.jsonl", *numbered(2))
    made = tmp_path / f"made.{suffix}"
    made.write_text(json.dumps(numbered(2)) if suffix == "json" else true.read_text())
    recipe = tmp_path / "scores.toml"
    text = (
        f'[[score]]\nname = "m"\nmetrics = ["cIoU"]\npredictions = "{made.name}"\n'
        'references = "true.jsonl"\nsamples = '
    )
    recipe.write_text(f"{text}2\n")
    code, _, error = run(recipe)
    assert code == 0, error
    recipe.write_text(f"{text}3\n")
    code, out, error = run(recipe)
    assert (code, out) == (65, "")
    assert "holds 2 predictions, and the protocol of m has 3" in error


def test_emission_beside_masks_whose_ids_are_numbers(write_lines, run):
    plan = write_lines("plan.jsonl", manifest_line("0"), manifest_line("1", "empty"))
    sides = ("--pred", plan, "--ref", write_lines("true.jsonl", *numbered(2)))
    code, out, error = run("--metric", "emission_rate", *sides, "--json")
    assert code == 0, error
    report = json.loads(out)
    assert report["metrics"]["emission_rate"]["value"] == 0.5
    card = report["protocol"]["scorings"][0]["references"]
    assert (card["kind"], card["count"]) == ("rle", 2)


def test_a_prediction_without_a_mask_counts_as_an_empty_one(folder, write_lines, run):
    folder("out", {"a": [[255, 0]]})
    manifest = write_lines(
        "out/manifest.jsonl",
        manifest_line("a", files=[{"path": "a.png"}]),
        manifest_line("b", "empty", error={"code": 3, "message": "no mask in the reply"}),
    )
    true = folder("true", {"a": [[255, 0]], "b": [[255, 255]]})
    code, out, error = run(*IOU, "--pred", manifest.parent, "--ref", true, "--json")
    assert code == 0, error
    assert json.loads(out)["metrics"]["cIoU"]["value"] == pytest.approx(1 / 3)
    assert json.loads(out)["metrics"]["gIoU"]["value"] == pytest.approx(1 / 2)
    assert "1 of 2 predictions have no mask" in error
    names = ("--metric", "emission_rate", "--metric", "false_emission_rate")
    code, out, error = run(*names, "--pred", manifest.parent, "--ref", true, "--json")
    assert code == 0, error
    (metric,) = json.loads(out)["metrics"].items()
    assert metric[0] == "emission_rate"
    assert (metric[1]["value"], metric[1]["n"]) == (0.5, 2)


def test_the_masks_of_one_answer_are_joined(folder, write_lines, run):
    folder("out", {"a-0": [[255, 0, 0, 0]], "a-1": [[0, 0, 255, 0]]})
    (folder("out", {}) / "b-0.json").write_text('{"size": [1, 4], "counts": [2, 2]}')
    calls = [{"id": "a", "prompt": str(n), "files": [{"path": f"a-{n}.png"}]} for n in (0, 1)]
    calls.append({"id": "b", "prompt": "", "files": [{"path": "b-0.json"}]})
    write_lines("out/manifest.jsonl", *({"status": "ok", "task": "segment"} | c for c in calls))
    true = folder("true", {"a": [[255, 0, 255, 255]], "b": [[0, 0, 255, 255]]})
    code, out, error = run(*IOU, "--pred", true.parent / "out", "--ref", true, "--json")
    assert code == 0, error
    assert json.loads(out)["metrics"]["cIoU"]["value"] == pytest.approx(4 / 5)


def test_emission_rates_by_hand(write_lines, run):
    asked = write_lines(
        "asked.jsonl",
        *({"id": f"s{n}", "task": "segment"} for n in range(4)),
        *({"id": f"t{n}", "task": "text"} for n in range(5)),
    )
    plan = write_lines(
        "plan.jsonl",
        *(manifest_line(f"s{n}") for n in range(3)), manifest_line("s3", task="text"),
        *(manifest_line(f"t{n}", task="text") for n in range(3)),
        manifest_line("t3"), manifest_line("t4", "empty"),
    )  # fmt: skip
    names = ("--metric", "emission_rate", "--metric", "false_emission_rate")
    sides = ("--pred", plan, "--ref", asked)
    code, out, error = run(*names, *sides, "--json")
    assert code == 0, error
    figures = {k: (v["value"], v["n"]) for k, v in json.loads(out)["metrics"].items()}
    assert figures == {"emission_rate": (3 / 4, 4), "false_emission_rate": (1 / 5, 5)}
    assert run(*names, *sides, "--fail-over", "false_emission_rate=0.1")[0] == 4
    twice = write_lines("twice.jsonl", *({"id": "s0", "task": t} for t in ("segment", "text")))
    code, _, error = run(*names, "--pred", plan, "--ref", twice)
    assert code == 65
    assert "twice.jsonl: several lines share an id: s0" in error
    failed = write_lines("f.jsonl", manifest_line("s0", "failed"))
    code, _, error = run(*names, "--pred", failed, "--ref", asked)
    assert code == 65
    assert "s0 has the status failed" in error
