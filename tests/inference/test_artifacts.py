from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbind_cli.errors import LockHeldError, OutputError, PolicyError, StorageError
from llmbind_cli.generators.base import GeneratedArtifact
from llmbind_cli.inference import json_lines
from llmbind_cli.inference.artifacts import (
    MANIFEST,
    ArtifactFile,
    ArtifactFolder,
    ResultLine,
)
from llmbind_cli.weights.file_names import file_stem
from llmbind_cli.weights.lock import exclusive_lock

HOSTILE = ["../../etc/x", "/etc/passwd", "..", ".", "", "a\0b", "a\nb", "~", "-rf", "猫", "\ud800"]


def png(payload: bytes = b"picture") -> GeneratedArtifact:
    return GeneratedArtifact(payload=payload, media_type="image/png", suffix=".png")


def line(**changed: Any) -> ResultLine:
    fields: dict[str, Any] = {
        "id": "a",
        "status": "ok",
        "task": "image",
        "prompt": "a cat",
        "reply": None,
        "seed": 1,
        "model": "tiny",
        "seconds": 0.12345,
    }
    return ResultLine(**fields | changed)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / MANIFEST).read_text("utf-8").splitlines()]


def save(folder: ArtifactFolder, artifact: GeneratedArtifact, item_id: str = "a") -> ArtifactFile:
    return folder.save(artifact, item_id=item_id, task="image", index=0)


@pytest.mark.parametrize("item_id", ["a", "cat-01", "2024.x_y"])
def test_plain_ids_stand_for_themselves(item_id: str) -> None:
    assert file_stem(item_id) == item_id


@pytest.mark.parametrize("item_id", [*HOSTILE, "a" * 300, "Cat", "cat."])
def test_other_ids_are_cleaned_and_hashed(tmp_path: Path, item_id: str) -> None:
    out = ArtifactFolder(out=tmp_path / "out")
    saved = save(out, png(), item_id)
    (path,) = tmp_path.rglob("*.png")
    assert path == Path(saved.path)
    assert path.parent == tmp_path / "out"
    digest = hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    assert path.name.endswith(f"-{digest}-image-0.png")
    assert not path.name.startswith((".", "-"))


@given(st.text(), st.text())
def test_stems_never_collide(first: str, second: str) -> None:
    stems = [file_stem(first).lower(), file_stem(second).lower()]
    assert (stems[0] == stems[1]) == (first == second)
    assert all(0 < len(stem) <= 93 and "/" not in stem for stem in stems)


@pytest.mark.parametrize("item_id", ["Cat", "a/b", "x" * 200])
def test_an_id_that_equals_another_ones_stem_gets_its_own(item_id: str) -> None:
    assert file_stem(file_stem(item_id).lower()) != file_stem(item_id).lower()


def test_saved_file_and_its_hash(tmp_path: Path) -> None:
    out = ArtifactFolder(out=tmp_path)
    saved = out.save(png(b"bytes"), item_id="a", task="image", index=2)
    assert saved.path == str(tmp_path / "a-image-2.png")
    assert Path(saved.path).read_bytes() == b"bytes"
    assert saved.sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert saved.media_type == "image/png"


def test_another_runs_file_is_never_overwritten(tmp_path: Path) -> None:
    first = save(ArtifactFolder(out=tmp_path), png(b"one"))
    second = save(ArtifactFolder(out=tmp_path), png(b"two"))
    again = save(ArtifactFolder(out=tmp_path), png(b"two"))
    assert Path(first.path).read_bytes() == b"one"
    assert second.path == str(tmp_path / f"a-image-0-{second.sha256[:8]}.png")
    assert again == second
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_same_content_is_written_once(tmp_path: Path) -> None:
    out = ArtifactFolder(out=tmp_path)
    first = save(out, png())
    changed = Path(first.path).stat().st_mtime_ns
    assert save(out, png()) == first
    assert Path(first.path).stat().st_mtime_ns == changed


def test_altered_files_under_every_name(tmp_path: Path) -> None:
    out = ArtifactFolder(out=tmp_path)
    digest = hashlib.sha256(b"picture").hexdigest()
    for name in ("a-image-0", f"a-image-0-{digest[:8]}", f"a-image-0-{digest}"):
        (tmp_path / f"{name}.png").write_text("altered")
    with pytest.raises(OutputError, match="altered"):
        save(out, png())


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    out = ArtifactFolder(out=tmp_path / "out")
    outside = tmp_path / "outside.png"
    outside.write_text("mine")
    (tmp_path / "out" / "a-image-0.png").symlink_to(outside)
    with pytest.raises(OutputError, match="leaves"):
        save(out, png())
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("exists", [True, False])
def test_a_manifest_that_leaves_the_folder_is_refused(tmp_path: Path, *, exists: bool) -> None:
    (tmp_path / "out").mkdir()
    if exists:
        (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / "out" / MANIFEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="leaves"):
        ArtifactFolder(out=tmp_path / "out")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    saved = save(ArtifactFolder(out=tmp_path / "link"), png())
    assert saved.path == str(tmp_path / "link" / "a-image-0.png")
    assert (tmp_path / "real" / "a-image-0.png").is_file()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        ArtifactFolder(out=tmp_path / "file" / "out")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_read_only_folder_is_refused_at_once() -> None:
    with pytest.raises(OutputError):
        ArtifactFolder(out=Path("/proc/self"))


def test_a_full_disk_leaves_earlier_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ArtifactFolder(out=tmp_path)
    save(out, png(b"one"))
    out.append(line())
    before = (tmp_path / MANIFEST).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        save(out, png(b"two"), "b")
    with pytest.raises(StorageError):
        out.append(line(id="b"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-image-0.png", MANIFEST]
    assert (tmp_path / MANIFEST).read_bytes() == before


def test_result_line_has_the_contracts_fields() -> None:
    file = ArtifactFile(path="out/a.png", sha256="0" * 64, media_type="image/png")
    assert json.loads(line(files=(file,)).to_json()) == {
        "id": "a",
        "status": "ok",
        "task": "image",
        "prompt": "a cat",
        "reply": None,
        "files": [{"path": "out/a.png", "sha256": "0" * 64, "media_type": "image/png"}],
        "seed": 1,
        "model": "tiny",
        "seconds": 0.123,
        "error": None,
    }
    failed = line(status="failed", error=PolicyError("withheld"), extra={"tag": [1]}).as_dict()
    assert failed["error"] == {"code": 77, "message": "withheld"}
    assert failed["extra"] == {"tag": [1]}


def test_result_line_checks_itself() -> None:
    with pytest.raises(ValueError, match="status"):
        line(status="done")
    with pytest.raises(ValueError, match="failed"):
        line(status="failed")
    with pytest.raises(ValueError, match="ok result"):
        line(error=PolicyError("withheld"))


@pytest.mark.parametrize(
    "prompt", ["une chatte à Paris 猫", "\ud800", 'quote " and\nline', "\u2028"]
)
def test_any_prompt_makes_one_line(tmp_path: Path, prompt: str) -> None:
    out = ArtifactFolder(out=tmp_path)
    out.append(line(prompt=prompt))
    content = (tmp_path / MANIFEST).read_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content)["prompt"] == prompt


def test_lines_are_appended_and_torn_tails_dropped(tmp_path: Path) -> None:
    out = ArtifactFolder(out=tmp_path)
    out.append(line())
    with (tmp_path / MANIFEST).open("ab") as stream:
        stream.write(b'{"id": "torn", "prompt": "' + b"x" * 200_000)
    out.append(line(id="b"))
    assert [entry["id"] for entry in lines_of(tmp_path)] == ["a", "b"]


def test_a_manifest_that_is_one_torn_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"id"')
    out = ArtifactFolder(out=tmp_path)
    out.append(line())
    assert [entry["id"] for entry in lines_of(tmp_path)] == ["a"]


WRITER = """
import sys
from pathlib import Path
from llmbind_cli.generators.base import GeneratedArtifact
from llmbind_cli.inference.artifacts import ArtifactFolder, ResultLine
out, name = ArtifactFolder(out=Path(sys.argv[1])), sys.argv[2]
for n in range(20):
    artifact = GeneratedArtifact(payload=f"{name} {n}".encode(), media_type="t/t", suffix=".txt")
    file = out.save(artifact, item_id="same", task="image", index=n)
    out.append(ResultLine(id=name, status="ok", task="image", prompt="p", reply=None,
        files=(file,), seed=n, model="m", seconds=0.0))
"""


def test_writes_wait_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "COMMIT_WAIT_S", 0.0)
    out = ArtifactFolder(out=tmp_path)
    with exclusive_lock(out.manifest):
        with pytest.raises(LockHeldError):
            save(out, png())
        with pytest.raises(LockHeldError):
            out.append(line())
    assert not list(tmp_path.glob("*.png"))
    save(out, png())


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name], env=environment)
        for name in ("one", "two")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    entries = lines_of(tmp_path)
    assert len(entries) == 40
    for entry in entries:
        (file,) = entry["files"]
        assert Path(file["path"]).read_text() == f"{entry['id']} {entry['seed']}"
    assert len({entry["files"][0]["path"] for entry in entries}) == 40
