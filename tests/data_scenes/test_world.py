"""The world file keeps its own rules, and its nouns read as English."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from llmbind_cli.data.dialogues.grammar import finish
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.nouns import parse_noun
from llmbind_cli.data.scenes.world import WORLD_FILE, World


@pytest.fixture(scope="module")
def file():
    return resources.files("llmbind_cli.data.scenes") / WORLD_FILE


@pytest.fixture(scope="module")
def records(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def checker():
    root = Path(__file__).resolve().parents[2]
    path = root / "tools" / "embedded_generator" / "things.py"
    spec = importlib.util.spec_from_file_location("embedded_generator_things", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_breaks_none_of_its_rules(checker, records):
    assert checker.complaints(records) == []


def test_the_check_finds_what_is_wrong(checker, records):
    twice = [*records, records[0]]
    assert any("stands twice" in line for line in checker.complaints(twice))
    clash = [dict(records[0]), {**records[1], "synonyms": [records[0]["name"]] * 5}]
    assert any("names two things" in line for line in checker.complaints(clash))
    coloured = [{**records[0], "name": "blue monkey", "recolour": True}]
    assert any("named after its colour" in line for line in checker.complaints(coloured))


def test_the_world_is_large_and_the_file_small(file, world):
    assert len(world) >= 600
    assert len(file.read_bytes()) < 300_000
    assert all(len(t.synonyms) + len(t.category_words) >= 5 for t in world)
    assert all(t.colours and set(t.colours) <= set(NAMES) for t in world)


def test_a_name_means_one_thing_and_a_category_word_several(world):
    assert [thing.name for thing in world.by_phrase["puppy"]] == ["dog"]
    assert [thing.name for thing in world.by_phrase["puppies"]] == ["dog"]
    assert len(world.by_phrase["flower"]) > 5
    for thing in world:
        assert world.by_phrase[thing.name.lower()] == (thing,)


def test_two_things_of_one_name_are_refused(world):
    with pytest.raises(ValueError, match="canonical name"):
        World((world["dog"], world["dog"]))


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ("dog", "a red dog", "two red dogs"),
        ("wolf/wolves", "a red wolf", "two red wolves"),
        ("apple", "a red apple", "two red apples"),
        ("a pair of jeans", "a pair of red jeans", "two pairs of red jeans"),
        ("bread/loaves of bread", "some red bread", "two red loaves of bread"),
    ],
)
def test_nouns(text, one, two):
    noun = parse_noun(text)
    assert finish(noun.phrase("red")) == one
    assert noun.counted(2, "red") == two


def test_article_before_a_vowel():
    assert finish(parse_noun("apple").phrase()) == "an apple"
    assert finish(parse_noun("unicorn").phrase()) == "a unicorn"


def test_what_is_not_counted_says_so(world):
    assert not world["sun"].countable
    with pytest.raises(ValueError, match="no plural"):
        parse_noun("some popcorn").counted(2)


def test_the_world_loads_without_numpy(root):
    script = (
        "import sys; from llmbind_cli.data.scenes import captions, coverage, sampling;"
        "coverage.nearest('a cat'); sys.exit(any(m in sys.modules for m in ('numpy', 'torch')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run([sys.executable, "-c", script], check=False, env=environment)
    assert done.returncode == 0
