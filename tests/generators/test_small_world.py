"""Pipelines of a small world, and prompts about what lies outside of it."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, ImageChops
from tiny_pipeline import save_pipeline

from llmbind_cli.errors import ConfigurationError, UsageError
from llmbind_cli.generators.base import GeneratorRequest
from llmbind_cli.generators.image import ImageGenerator
from llmbind_cli.generators.settings import GeneratorSettings
from llmbind_cli.generators.small_world import PROMPTS, SmallWorld, read_small_world, reword


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return picture.tobytes()


@pytest.mark.parametrize(
    ("prompt", "fits", "drawn", "told"),
    [
        ("a red apple next to a cat", 99, "a red apple next to a cat", None),
        ("a cat in the fog", 99, "a cat", "does not know: fog; it draws 'a cat'"),
        ("a cute red apple, a cat, 4k", 5, "red apple and a cat", "takes shorter prompts"),
        ("a cute red apple, a cat, 4k", 3, "apple and cat", "it draws 'apple and cat'"),
        ("a lighthouse", 99, "a lighthouse", "knows nothing of what 'a lighthouse' names"),
    ],
)
def test_a_prompt_is_drawn_as_far_as_it_is_known(capsys, prompt, fits, drawn, told):
    def short(text):
        return len(text.split()) <= fits

    assert reword(prompt, name="emoji", fits=short) == drawn
    lines = capsys.readouterr().err.splitlines()
    if told is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith("emoji ")
        assert told in lines[0]
        assert "--generator image=PATH_OR_ID" in lines[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"world": "sea"}', "world: Input should be 'scenes'"),
        ('{"world": "scenes", "longest": 0}', "longest: .* greater than 0"),
        ('{"world": "scenes", "words": 3}', "words: Extra inputs"),
    ],
)
def test_a_world_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / PROMPTS).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_small_world(tmp_path)


def test_a_world_may_take_shorter_prompts_than_the_tokenizer(tmp_path, capsys):
    folder = save_pipeline(tmp_path / "pipeline")
    content = {"world": "scenes", "longest": 4}
    (folder / PROMPTS).write_text(json.dumps(content))
    assert read_small_world(folder) == SmallWorld(**content)
    generator = ImageGenerator.load(folder, name="tiny")
    (asked,) = generator.generate([GeneratorRequest(prompt="a cute cat, 4k", seed=1)])
    (short,) = generator.generate([GeneratorRequest(prompt="cat", seed=1)])
    assert pixels(asked.payload) == pixels(short.payload)
    assert "takes shorter prompts; it draws 'cat'" in capsys.readouterr().err


def test_a_pipeline_of_the_world_draws_what_it_knows_and_tells_once(tmp_path, capsys):
    folder = save_pipeline(tmp_path / "pipeline")
    plain = ImageGenerator.load(folder, name="tiny")
    cat, fog = plain.generate([GeneratorRequest(prompt=p, seed=1) for p in ("cat", "cat in fog")])
    (folder / PROMPTS).write_text(json.dumps({"world": "scenes"}))
    confined = ImageGenerator.load(folder, name="tiny")
    asked = GeneratorRequest(prompt="cat in fog", seed=1)
    first, second = confined.generate([asked, asked])
    assert first.payload == second.payload
    pictures = [pixels(artifact.payload) for artifact in (first, cat, fog)]
    assert pictures[0] == pictures[1] != pictures[2]
    told = [line for line in capsys.readouterr().err.splitlines() if "does not know" in line]
    assert len(told) == 1


def test_a_larger_picture_is_the_same_one_enlarged(tmp_path):
    folder = save_pipeline(tmp_path / "pipeline")
    (folder / PROMPTS).write_text(json.dumps({"world": "scenes"}))
    asked = [GeneratorRequest(prompt="cat", seed=1)]
    (small,) = ImageGenerator.load(folder, name="tiny").generate(asked)
    large_settings = GeneratorSettings(width=96, height=96)
    (large,) = ImageGenerator.load(folder, name="tiny", settings=large_settings).generate(asked)
    with Image.open(io.BytesIO(small.payload)) as one, Image.open(io.BytesIO(large.payload)) as two:
        assert (one.size, two.size) == ((32, 32), (96, 96))
        again = two.resize(one.size, Image.Resampling.BOX)
        difference = ImageChops.difference(one.convert("RGB"), again.convert("RGB"))
        assert max(high for _, high in difference.getextrema()) < 40  # scaling there and back
    with pytest.raises(UsageError, match="draws squares, got 96x64"):
        ImageGenerator.load(folder, name="tiny", settings=GeneratorSettings(width=96, height=64))
