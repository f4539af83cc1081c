from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llmbind_cli.errors import ModelNotFoundError, UnavailableError, UsageError
from llmbind_cli.generators import image, registry
from llmbind_cli.generators.registry import GeneratorRegistry, parse_generator_overrides


def test_overrides() -> None:
    table = parse_generator_overrides(["image=a=b", "video=hf:org/name@main"])
    assert table == {"image": "a=b", "video": "hf:org/name@main"}
    assert parse_generator_overrides([]) == {}


@pytest.mark.parametrize(
    ("assignment", "word"),
    [
        ("imgae=x", "did you mean image"),
        ("smell=x", "known: image, edit, video, audio"),
        ("image", "write image=PATH_OR_ID"),
        ("image=", "write image=PATH_OR_ID"),
    ],
)
def test_wrong_overrides(assignment: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_generator_overrides([assignment])


def test_override_given_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_generator_overrides(["image=a", "image=b"])


@pytest.mark.parametrize("modality", ["image", "edit", "video", "audio"])
def test_no_generator_says_how_to_name_one(modality: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"--generator {modality}=PATH_OR_ID"):
        GeneratorRegistry().load(modality)


def test_named_generator_of_a_modality_not_run(pipeline_folder: Path) -> None:
    with pytest.raises(UnavailableError, match="image pipelines only"):
        GeneratorRegistry(overrides={"video": str(pipeline_folder)}).load("video")


def test_tasks_without_generators() -> None:
    with pytest.raises(UnavailableError, match="segment"):
        GeneratorRegistry().load("segment")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_missing_folder(source: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        GeneratorRegistry(overrides={"image": source}).check("image")


def test_hub_id_must_be_pinned() -> None:
    with pytest.raises(ModelNotFoundError, match="hf:org/name@COMMIT"):
        GeneratorRegistry(overrides={"image": "org/name"}).check("image")
    with pytest.raises(UsageError, match="REVISION"):
        GeneratorRegistry(overrides={"image": "hf:org/name"}).check("image")
    with pytest.raises(UsageError, match="hf:ORG/NAME@REVISION"):
        GeneratorRegistry(overrides={"image": "pypi:name==1#file"}).check("image")


@pytest.mark.parametrize("source", ["hf:org/name@abc123", "org/name@abc123"])
def test_hub_id_goes_through_the_cache(
    monkeypatch: pytest.MonkeyPatch, pipeline_folder: Path, source: str
) -> None:
    from llmbind_cli.weights import cache

    asked: list[tuple[str, bool]] = []

    def resolve(text: str, *, sha256: str | None = None, offline: bool = False) -> Path:
        asked.append((text, offline))
        return pipeline_folder

    monkeypatch.setattr(cache, "resolve", resolve)
    loaded = GeneratorRegistry(overrides={"image": source}, offline=True).load("image")
    assert asked == [("hf:org/name@abc123", True)]
    assert loaded.name == "hf:org/name@abc123"


def test_offline_and_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    names = GeneratorRegistry(overrides={"image": "hf:org/name@abc123"}, offline=True)
    with pytest.raises(ModelNotFoundError, match="org/name"):
        names.load("image")


def test_loaded_once_and_named_without_its_place(
    monkeypatch: pytest.MonkeyPatch, pipeline_folder: Path
) -> None:
    calls: list[Path] = []

    def counted(folder: Path, **keywords: Any) -> image.ImageGenerator:
        calls.append(folder)
        return original(folder, **keywords)

    original = image.load_image_generator
    monkeypatch.setattr(image, "load_image_generator", counted)
    generators = GeneratorRegistry(bundle={"image": str(pipeline_folder)})
    assert generators.load("image") is generators.load("image")
    assert calls == [pipeline_folder]
    assert generators.load("image").name == "tiny"


def test_overrides_win_and_bundle_paths_start_at_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "generators" / "image").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    bundle = {"image": "generators/image"}
    inside = GeneratorRegistry(bundle=bundle, folder=tmp_path)
    assert inside.check("image") == str(tmp_path / "generators" / "image")
    other = str(tmp_path / "mine")
    chosen = GeneratorRegistry(bundle=bundle, overrides={"image": other}, folder=tmp_path)
    assert chosen.check("image") == other


class Whistle:
    """A third party's generator."""

    modality = "audio"
    name = "whistle"
    fingerprint = "1"
    batch_size = 1

    def __init__(self, *, device: str, dtype: str, offline: bool) -> None:
        self.settings = (device, dtype, offline)


def test_installed_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("whistle", f"{__name__}:Whistle", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: Whistle)

    def entry_points(*, group: str, name: str) -> metadata.EntryPoints:
        return metadata.EntryPoints([entry]).select(group=group, name=name)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    loaded = GeneratorRegistry(overrides={"audio": "whistle"}, device="cpu").load("audio")
    assert isinstance(loaded, Whistle)
    assert loaded.settings == ("cpu", "auto", False)
    with pytest.raises(UsageError, match="makes audio"):
        GeneratorRegistry(overrides={"video": "whistle"}).load("video")
