from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmbind_cli.errors import ModelNotFoundError, UnavailableError, UsageError
from llmbind_cli.generators.base import GeneratedArtifact, GeneratorRequest
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.generators.settings import GeneratorSettings

GOOD = """
class Silence:
    modality, name, fingerprint, batch_size = "audio", "silence", "1", 1

    def generate(self, requests):
        return []

def make(*, device, dtype, offline, settings):
    return Silence()

def fail(**_):
    raise RuntimeError("no such card")

def empty(**_):
    return object()
"""


def install(folder: Path, name: str, entries: dict[str, str], module: str, code: str) -> None:
    """Write a distribution as an installer leaves it."""
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{name}-1.5.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(["[llmbind.generators]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with one sound generator and one broken one."""
    entries = {
        "silence": "sound_plugin:make",
        "cardless": "sound_plugin:fail",
        "empty": "sound_plugin:empty",
    }
    install(tmp_path, "sound-plugin", entries, "sound_plugin", GOOD)
    code = "import a_package_that_is_not_there\n"
    install(tmp_path, "old-plugin", {"old": "old_plugin:make"}, "old_plugin", code)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("sound_plugin", "old_plugin", "llmbind_tones"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def load(name: str, **settings: object) -> object:
    wished = GeneratorSettings(**settings)  # type: ignore[arg-type]
    return GeneratorRegistry(overrides={"audio": name}, settings=wished).load("audio")


def test_a_broken_plugin_beside_the_one_asked_for_is_a_warning(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("silence").name == "silence"  # type: ignore[attr-defined]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "'old' of old-plugin 1.5" in warnings[0]
    assert "ModuleNotFoundError: No module named 'a_package_that_is_not_there'" in warnings[0]


def test_a_broken_plugin_that_was_asked_for(site: Path) -> None:
    with pytest.raises(UnavailableError, match=r"'old' of old-plugin 1\.5 cannot be imported"):
        load("old")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cardless", r"sound-plugin 1\.5 cannot be made: RuntimeError: no such card"),
        ("empty", r"lacks modality, name, fingerprint, batch_size, generate"),
    ],
)
def test_a_plugin_that_does_not_work(site: Path, name: str, word: str) -> None:
    with pytest.raises(UnavailableError, match=word):
        load(name)


def test_two_plugins_of_one_name(site: Path) -> None:
    install(site, "other-plugin", {"silence": "other:make"}, "other", GOOD)
    with pytest.raises(UsageError, match=r"other-plugin 1\.5 and sound-plugin 1\.5"):
        load("silence")


def test_checking_a_plugin_imports_nothing(site: Path) -> None:
    assert GeneratorRegistry(overrides={"audio": "old"}).check("audio") == "old"
    assert "old_plugin" not in sys.modules
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        GeneratorRegistry(overrides={"audio": "oldd"}).check("audio")


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example distribution of the documentation, built and installed by pip."""
    folder = tmp_path_factory.mktemp("example")
    source = Path(__file__).parents[2] / "docs" / "examples" / "generator-plugin"
    shutil.copytree(source, folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    options += ["--disable-pip-version-check", "--target", str(folder / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return folder / "site"


def test_the_example_of_the_documentation(
    installed_example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(installed_example)
    settings = GeneratorSettings(seconds=1.5, audio_format="flac")
    generators = GeneratorRegistry(overrides={"audio": "tones"}, settings=settings)
    assert generators.check("audio") == "tones"
    made = generators.load("audio")
    requests = [GeneratorRequest(prompt="a low hum", seed=seed) for seed in (1, 1, 2)]
    first, again, other = made.generate(requests)
    assert isinstance(first, GeneratedArtifact)
    assert isinstance(again, GeneratedArtifact)
    assert isinstance(other, GeneratedArtifact)
    assert (first.media_type, first.suffix) == ("audio/flac", ".flac")
    assert first.payload == again.payload
    assert first.payload != other.payload
    samples, rate = soundfile.read(io.BytesIO(first.payload))
    assert len(samples) / rate == 1.5
    assert 0.1 < np.abs(samples).max() <= 0.5
    with pytest.raises(UsageError, match="steps: llmbind-tones"):
        load("tones", steps=4)
    with pytest.raises(UsageError, match="makes audio"):
        GeneratorRegistry(overrides={"video": "tones"}).load("video")
