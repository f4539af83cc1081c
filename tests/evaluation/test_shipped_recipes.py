"""The shipped evaluation recipes: sound, and clear about what they need."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from llmbind_cli.evaluation.metric_table import METRICS, find_metrics
from llmbind_cli.inference.requests import read_requests
from llmbind_cli.recipes.eval_schema import load_eval_recipe
from llmbind_cli.recipes.locate import shared_folder

FOLDER = shared_folder("recipes") / "eval"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def test_the_benchmarks_are_there():
    assert set(RECIPES) == {
        "audiocaps", "coco-fid-30k", "embedded", "embedded-drawings", "embedded-photos",
        "embedded-sight", "msr-vtt", "reasoning-edit", "reasonseg", "refcoco", "refcoco-plus",
        "refcocog", "routing",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_each_names_its_protocol(name):
    recipe = load_eval_recipe(FOLDER / f"{name}.toml")
    card = recipe.benchmark
    assert card is not None
    for field in ("title", "source", "captions", "preprocessing", "backbone"):
        assert getattr(card, field)
    for score in recipe.score:
        metrics = find_metrics(score.metrics)
        assert all(metric.name in METRICS for metric in metrics)
        networks = {metric.extractor for metric in metrics} - {None}
        assert not networks or card.backbone != "none"
        if name != "routing" and score.name != "emission":
            assert score.samples
        used = [p for p in (score.predictions, score.references, score.prompts) if p is not None]
        for path in used:
            if path.parts[0] == "{data}":
                folder = path.parts[1]
                assert any(line.startswith(folder) for line in card.layout), path
            elif path.parts[0] != "{work}":
                assert path.exists(), path


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_tells_the_steps_and_what_is_missing(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(f"eval/{name}", "--dry-run", "--data", tmp_path / "none")
    assert code == 0, error
    assert list(tmp_path.iterdir()) == []  # nothing is made
    told = json.loads(run(f"eval/{name}", "--dry-run", "--data", tmp_path / "none", "--json")[1])
    assert set(told) == {"benchmark", "make", "score", "weights", "missing"}
    for step in told["make"]:
        assert f"make: {step}" in out
    for line in told["missing"]:
        assert f"missing: {line}" in out
    data = [line for line in told["missing"] if not line.startswith("weights of")]
    assert bool(data) == (name != "embedded")


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"embedded"}))
def test_without_data_it_is_65_and_tells_how_to_get_it(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(f"eval/{name}", "--data", tmp_path / "none", "--report", "r")
    assert (code, out) == (65, "")
    card = load_eval_recipe(FOLDER / f"{name}.toml").benchmark
    assert "needs what is not there" in error
    assert str(tmp_path / "none") in error
    assert card.source in error
    assert card.layout[0] in error


def test_without_weights_it_is_10_before_anything_is_made(run, tmp_path, monkeypatch, write_lines):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    (data / "coco").mkdir(parents=True)
    write_lines("data/coco/captions-30k.jsonl", {"id": "1", "prompt": "a fox"})
    (data / "coco" / "val2014-256.npz").write_bytes(b"x")
    code, out, error = run("eval/coco-fid-30k", "--offline")
    assert (code, out) == (10, "")
    assert "inception-v3" in error
    assert "--weights inception-v3=FILE" in error
    assert not (tmp_path / "llmbind-eval").exists()


def test_the_embedded_requests_are_the_development_set(root):
    shipped = (FOLDER / "embedded-requests.jsonl").read_bytes()
    assert shipped == (root / "tests" / "data" / "dev_requests.jsonl").read_bytes()


def test_the_pictures_of_the_embedded_requests_come_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requests = read_requests(str(FOLDER / "embedded-requests.jsonl"))
    pictures = {path for request in requests for path in request.images}
    assert pictures == {FOLDER / "photo.jpg"}
    (tmp_path / "photo.jpg").write_bytes(b"one's own goes before")
    requests = read_requests(str(FOLDER / "embedded-requests.jsonl"))
    assert {path for request in requests for path in request.images} == {Path("photo.jpg")}


STAND_IN = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
source = sys.argv[sys.argv.index("--from") + 1]
for line in open(source):
    row = json.loads(line)
    call = {{"id": row["id"], "status": "ok", "task": row["task"], "prompt": " ".join(row["keep"])}}
    print(json.dumps(call | {{"reply": "", "model": "m"}}))
"""


@pytest.fixture
def planner(tmp_path: Path, monkeypatch):
    """A command in the place of ``llmbind generate --plan``; gives the calls made to it."""
    from llmbind_cli.evaluation import recipe_steps

    log, program = tmp_path / "calls.jsonl", tmp_path / "planner"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    run = recipe_steps.subprocess.run

    def instead(command, **options):
        assert command[1:3] == ["-m", "llmbind_cli"]
        return run([str(program), *command[3:]], **options)

    monkeypatch.setattr(recipe_steps.subprocess, "run", instead)
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def test_a_plan_is_made_once_and_anew_when_its_requests_change(
    planner, run, tmp_path, write_lines, embedded_bundle, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "prompt": "Draw a fox.", "task": "image", "keep": ["fox"]}
    write_lines("asked.jsonl", row)
    text = (FOLDER / "routing.toml").read_text().replace("{data}/requests", "asked")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text.replace("router_load = true", ""))
    code, out, error = run(recipe, "--report", "r", "--seed", 3)
    assert code == 0, error
    assert "requests/routing" in out
    (call,) = planner()
    assert call[:3] == ["generate", "--from", str(tmp_path / "asked.jsonl")]
    assert {"--plan", "--json", "--seed", "3"} <= set(call)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["details"]["benchmark"]["title"] == "routing"
    assert run(recipe, "--seed", 3)[0] == 0
    assert len(planner()) == 1
    assert run(recipe, "--seed", 3, "--fail-under", "requests/routing=1.01")[0] == 4
    assert len(planner()) == 1
    write_lines("asked.jsonl", row | {"keep": ["red"]})
    assert run(recipe, "--seed", 3)[0] == 0
    assert len(planner()) == 2
    assert run(recipe, "--seed", 3, "--no-cache")[0] == 0
    assert len(planner()) == 3


def test_another_number_of_samples_is_refused(run, tmp_path, write_lines, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines("asked.jsonl", {"id": "1", "prompt": "x", "task": "text", "keep": []})
    write_lines("plan.jsonl", {"id": "1", "status": "ok", "task": "text", "prompt": ""})
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[[score]]\nname = "r"\nmetrics = ["routing"]\npredictions = "plan.jsonl"\n'
        'references = "asked.jsonl"\nsamples = 2\n'
    )
    code, _, error = run(recipe)
    assert code == 65
    assert "holds 1 predictions, and the protocol of r has 2" in error


def test_one_scoring_minus_another(run, folder, tmp_path):
    true = {str(n): [[255] * 10] for n in range(6)}
    folder("true", true)
    folder("raw", {str(n): [[255] * (4 + n % 2) + [0] * (6 - n % 2)] for n in range(6)})
    folder("written", {str(n): [[255] * (6 + n % 2) + [0] * (4 - n % 2)] for n in range(6)})
    recipe = tmp_path / "mine.toml"
    recipe.write_text("".join(
        f'[[score]]\nname = "{name}"\nmetrics = ["gIoU"]\npredictions = "{name}"\n'
        f'references = "true"\n{more}'
        for name, more in (("raw", ""), ("written", 'minus = "raw"\n'))
    ))  # fmt: skip
    code, out, error = run(recipe, "--report", tmp_path / "r")
    assert code == 0, error
    assert "written/gIoU − raw/gIoU: +0.2 (+0.2 – +0.2, paired bootstrap over items): better" in out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    (entry,) = report["details"]["differences"].values()
    assert entry["difference"] == pytest.approx(0.2)
    assert "+0.2" in (tmp_path / "r" / "report.md").read_text()
    assert "written/gIoU − raw/gIoU" in (tmp_path / "r" / "report.html").read_text()
    recipe.write_text(recipe.read_text().replace('minus = "raw"', 'minus = "none"'))
    code, _, error = run(recipe)
    assert code == 78
    assert "minus must name another scoring" in error


def test_minus_takes_what_a_name_stands_for(run, folder, tmp_path):
    for name, covered in (("true", 10), ("raw", 5), ("written", 7)):
        folder(name, {n: [[255] * covered + [0] * (10 - covered)] for n in "ab"})
    recipe = tmp_path / "mine.toml"

    def differences(raw, written):
        recipe.write_text(
            "".join(
                f'[[score]]\nname = "{name}"\nmetrics = ["{metric}"]\npredictions = "{name}"\n'
                f'references = "true"\n{more}'
                for name, metric, more in (
                    ("raw", raw, ""),
                    ("written", written, 'minus = "raw"\n'),
                )
            )
        )
        code, out, error = run(recipe, "--json")
        return code, json.loads(out)["details"]["differences"] if code == 0 else error

    code, found = differences("segmentation", "segmentation")
    assert code == 0, found
    names = ["cIoU", "gIoU", *(f"precision@0.{tenth}" for tenth in range(5, 10))]
    assert list(found) == [f"written/{name} − raw/{name}" for name in names]
    assert found["written/cIoU − raw/cIoU"]["difference"] == pytest.approx(0.2)
    code, found = differences("gIoU", "segmentation")
    assert (code, list(found)) == (0, ["written/gIoU − raw/gIoU"])
    code, error = differences("gIoU", "cIoU")
    assert code == 78
    assert "written: minus raw, and both have no figure in common" in error


@pytest.mark.slow
def test_the_embedded_suite_runs_and_its_gates_fail(
    run, tmp_path, monkeypatch, embedded_base, embedded_sight
):
    """On a part of its requests and scenes; the whole takes minutes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FOLDER, tmp_path / "eval")
    recipe, scenes = tmp_path / "eval" / "embedded.toml", tmp_path / "eval" / "embedded-scenes"
    for path in (recipe.with_name("embedded-requests.jsonl"), *scenes.glob("*.jsonl")):
        step = 8 if path.parent == scenes else 10
        path.write_text("".join(path.read_text().splitlines(keepends=True)[::step]))
    text = recipe.read_text()
    for whole, part in ((260, 26), (64, 8), (32, 4)):
        text = text.replace(f"samples = {whole}\n", f"samples = {part}\n")
    recipe.write_text(text)
    code, out, error = run(recipe, "--report", "out", "--offline", "--json")
    assert code == 0, error
    report = json.loads(out)
    value = report["metrics"]["requests/routing"]["value"]
    assert value > 0.5  # of 26 requests, so it may lie far from that of all
    assert report["metrics"]["masks/gIoU"]["value"] > 0.5
    assert report["metrics"]["answers/exact_match"]["n"] == 4
    assert "written/FD-effnet-lite0 − raw/FD-effnet-lite0" in report["details"]["differences"]
    load = report["details"]["requests/routing"]["router_load"]
    for routers in load.values():
        for shares in routers.values():
            assert sum(shares) == pytest.approx(1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "report.md", "report.html", "junit.xml", "items.jsonl",
    }  # fmt: skip
    assert run(recipe, "--offline", "--fail-under", f"requests/routing={value + 0.001}")[0] == 4
    assert run(recipe, "--offline", "--fail-over", "raw/FD-effnet-lite0=1")[0] == 4
