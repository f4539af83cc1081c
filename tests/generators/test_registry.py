from __future__ import annotations

import shutil
import weakref
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tiny_pipeline_media import build_media_pipeline

from llmbind_cli.errors import ModelNotFoundError, PolicyError, UnavailableError, UsageError
from llmbind_cli.generators import memory, registry
from llmbind_cli.generators import pipeline_folder as pipeline_folder_module
from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest
from llmbind_cli.generators.registry import GeneratorRegistry, parse_generator_overrides
from llmbind_cli.generators.settings import GeneratorSettings


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


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_pipeline_of_another_kind(pipeline_folder: Path, modality: str) -> None:
    generators = GeneratorRegistry(overrides={modality: str(pipeline_folder)})
    with pytest.raises(UnavailableError, match=f"no pipeline for {modality} but a .* for image"):
        generators.load(modality)


def test_tasks_without_generators() -> None:
    with pytest.raises(UnavailableError, match="segment"):
        GeneratorRegistry().load("segment")


@pytest.mark.parametrize(
    "source", ["./nowhere", "/nowhere/at/all", "nowhere", "~no-such-user/x", "x" * 300]
)
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

    def counted(folder: Path, *rest: Any) -> Any:
        calls.append(folder)
        return original(folder, *rest)

    original = pipeline_folder_module.load_components
    monkeypatch.setattr(pipeline_folder_module, "load_components", counted)
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

    def __init__(
        self, *, device: str, dtype: str, offline: bool, settings: GeneratorSettings
    ) -> None:
        self.got = (device, dtype, offline, settings)

    def generate(self, requests: Any) -> Any:
        raise NotImplementedError


def test_installed_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("whistle", f"{__name__}:Whistle", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: Whistle)

    def entry_points(**wanted: str) -> metadata.EntryPoints:
        return metadata.EntryPoints([entry]).select(**wanted)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    settings = GeneratorSettings(seconds=2)
    generators = GeneratorRegistry(overrides={"audio": "whistle"}, device="cpu", settings=settings)
    loaded = generators.load("audio")
    assert isinstance(loaded, Whistle)
    assert loaded.got == ("cpu", "auto", False, settings)
    with pytest.raises(UsageError, match="makes audio"):
        GeneratorRegistry(overrides={"video": "whistle"}).load("video")


@pytest.fixture
def two_folders(pipeline_folder: Path, tmp_path: Path) -> dict[str, str]:
    """An image and an edit generator of different folders, of the same size."""
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    return {"image": str(pipeline_folder), "edit": str(other)}


def test_memory_is_told_before_loading(two_folders: dict[str, str]) -> None:
    folder = Path(two_folders["image"])
    loaded = GeneratorRegistry(overrides=two_folders, device="cpu").load("image")
    planned = memory.planned_bytes(folder, device="cpu", dtype="auto")
    assert planned == memory.parameter_bytes([loaded]) > 50_000
    assert memory.planned_bytes(folder, device="cpu", dtype="bfloat16") == planned // 2


@pytest.mark.parametrize(("room", "kept"), [(1.5, False), (2.1, True)])
def test_the_least_recently_used_generator_leaves(
    two_folders: dict[str, str], room: float, kept: bool
) -> None:
    one = memory.planned_bytes(Path(two_folders["image"]), device="cpu", dtype="auto")
    settings = GeneratorSettings(memory_budget_gib=room * one / 2**30)
    generators = GeneratorRegistry(overrides=two_folders, device="cpu", settings=settings)
    first = generators.load("image")
    unet = weakref.ref(first.pipeline.unet)  # type: ignore[attr-defined]
    generators.load("edit")
    assert (unet() is not None) == kept
    assert (generators.load("image") is first) == kept
    request = GeneratorRequest(prompt="a cat", seed=1)
    assert isinstance(generators.load("image").generate([request])[0], GeneratedArtifact)


def test_use_counts_not_the_order_of_loading(two_folders: dict[str, str], tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    with pipeline_folder_module.quiet_libraries():
        build_media_pipeline("TextToVideoSDPipeline").save_pretrained(clips)
    folders = two_folders | {"video": str(clips)}
    image, clip = (
        memory.planned_bytes(Path(folders[modality]), device="cpu", dtype="auto")
        for modality in ("image", "video")
    )
    room = image + max(image, clip)
    settings = GeneratorSettings(memory_budget_gib=room / 2**30 * 1.01)
    generators = GeneratorRegistry(overrides=folders, device="cpu", settings=settings)
    first, second = generators.load("image"), generators.load("edit")
    assert generators.load("image") is first
    generators.load("video")
    assert first.pipeline is not None  # type: ignore[attr-defined]
    assert second.pipeline is None  # type: ignore[attr-defined]


def test_a_generator_larger_than_the_budget(two_folders: dict[str, str]) -> None:
    settings = GeneratorSettings(memory_budget_gib=1e-5)
    generators = GeneratorRegistry(overrides=two_folders, device="cpu", settings=settings)
    with pytest.raises(UsageError, match=r"--memory-budget 1e-05: the weights of tiny take"):
        generators.load("image")


def test_shared_networks_count_once(pipeline_folder: Path) -> None:
    both = {"image": str(pipeline_folder), "edit": str(pipeline_folder)}
    generators = GeneratorRegistry(overrides=both, device="cpu")
    drawing, editing = generators.load("image"), generators.load("edit")
    assert memory.parameter_bytes([drawing, editing]) == memory.parameter_bytes([drawing])


def test_a_bundles_policy_covers_every_kind_of_picture(pipeline_folder: Path) -> None:
    for modality in ("image", "edit"):
        generators = GeneratorRegistry(
            overrides={modality: str(pipeline_folder)}, require_safety_checker=True
        )
        with pytest.raises(PolicyError, match=f"--generator {modality}="):
            generators.load(modality)
