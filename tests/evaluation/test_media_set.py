"""Folders and manifests: ids, hashes, and every fault of theirs listed."""

from __future__ import annotations

import hashlib
import shutil
import unicodedata

import pytest

from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation.media_set import pair_up, read_media_set
from llmbind_cli.evaluation.prompts import read_prompts
from llmbind_cli.weights.hashes import sha256_file

DOT = [[0, 255]]


def test_ids_are_paths_without_suffix_sorted(folder):
    place = folder("set", {"b": DOT, "a/2": DOT, "a/10": DOT, "c.v2": DOT})
    (place / ".hidden").write_text("x")
    (place / ".cache").mkdir()
    (place / ".cache" / "x.png").write_text("x")
    found = read_media_set(place)
    assert list(found.files) == ["a/10", "a/2", "b", "c.v2"]
    assert (found.kind, found.path) == ("folder", str(place))


def test_hash_equals_that_of_the_listing_and_moves_with_content_and_ids(folder):
    place = folder("set", {"b": DOT, "a": [[1]]})
    lines = "".join(f"{sha256_file(place / f'{item}.png')}  {item}\n" for item in ("a", "b"))
    first = read_media_set(place).sha256
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    assert read_media_set(shutil.copytree(place, place.parent / "copy")).sha256 == first
    (place / "a.png").rename(place / "c.png")
    assert read_media_set(place).sha256 != first


def test_names_of_other_file_systems_match(folder):
    composed, decomposed = (
        unicodedata.normalize("NFC", "Möwe"),
        unicodedata.normalize("NFD", "Möwe"),
    )
    made, true = folder("made", {decomposed: DOT}), folder("true", {composed: DOT})
    ((item, file, reference),) = pair_up(read_media_set(made), read_media_set(true))
    assert item == composed
    assert (file.stem, reference.stem) == (decomposed, composed)
    both = folder("both", {composed: DOT, decomposed: DOT})
    with pytest.raises(InputDataError, match="several files share an id: Möwe"):
        read_media_set(both)


def test_duplicate_stems_are_listed(folder):
    place = folder("set", {"a": DOT, "b": DOT, "c": DOT})
    shutil.copy(place / "a.png", place / "a.PNG")
    shutil.copy(place / "b.png", place / "b.jpg")
    with pytest.raises(InputDataError) as caught:
        read_media_set(place)
    assert "a (a.PNG, a.png), b (b.jpg, b.png)" in str(caught.value)


def test_missing_ids_of_both_sides_are_listed(folder):
    made, true = (
        folder("made", {"a": DOT, "x": DOT}),
        folder("true", {"a": DOT, "b": DOT, "c": DOT}),
    )
    with pytest.raises(InputDataError) as caught:
        pair_up(read_media_set(made), read_media_set(true))
    assert "made lacks 2 of the 3 ids" in str(caught.value)
    assert ": b, c; " in str(caught.value)
    assert str(caught.value).endswith(": x")
    assert caught.value.exit_code == 65


def test_what_is_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"x")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    for name, problem in (
        ("empty", "holds no file"),
        ("file.png", "give a folder, or a manifest"),
        ("none", "no such file or folder"),
        ("empty.jsonl", "holds no file"),
    ):
        with pytest.raises(InputDataError, match=rf"{name}: {problem}"):
            read_media_set(tmp_path / name)


def line(item, path, status="ok", **more):
    return {"id": item, "status": status, "task": "image", "files": [{"path": path}], **more}


def test_a_manifest_names_its_files(folder, write_lines):
    place = folder("out", {"1-abc": DOT, "2-def": DOT})
    digest = sha256_file(place / "1-abc.png")
    first = line("One", "llmbind-out/1-abc.png")
    first["files"][0]["sha256"] = digest
    manifest = write_lines("out/manifest.jsonl", first, line("Two", "2-def.png"))
    for path in (manifest, place):  # an output folder is read by its manifest
        found = read_media_set(path)
        assert found.kind == "manifest"
        assert {item: file.name for item, file in found.files.items()} == {
            "One": "1-abc.png",
            "Two": "2-def.png",
        }


def test_of_several_lines_of_a_call_the_last_counts(folder, write_lines):
    folder("out", {"1": DOT, "2": DOT})
    failed = {"id": "1", "status": "failed", "task": "text", "error": {"message": "no"}}
    manifest = write_lines("out/m.jsonl", failed, line("1", "2.png"), line("1", "1.png"))
    assert [file.name for file in read_media_set(manifest).files.values()] == ["1.png"]


def test_of_several_calls_of_a_request_the_first_counts_where_that_is_asked_for(
    folder, write_lines
):
    place = folder("out", {"1": DOT, "2": DOT, "3": DOT})
    calls = [
        line("1", "2.png", prompt="a"),
        line("3", "3.png", prompt="c"),
        line("1", "1.png", prompt="b"),
    ]
    manifest = write_lines("out/m.jsonl", *calls)
    with pytest.raises(InputDataError, match=r"1 \(2\.png, 1\.png\); --first-of-each scores"):
        read_media_set(manifest)
    found = read_media_set(manifest, first_of_each=True)
    assert {item: file.name for item, file in found.files.items()} == {"1": "2.png", "3": "3.png"}
    assert found.left_out == ("1",)
    assert read_prompts(None, manifest, first_of_each=True).words["1"] == "a"
    manifest.unlink()
    shutil.copy(place / "1.png", place / "1.PNG")
    with pytest.raises(InputDataError, match=r"share an id: 1 \(1\.PNG, 1\.png\)$"):
        read_media_set(place, first_of_each=True)  # what is no call has no first


def test_faults_of_a_manifest_are_listed_together(folder, write_lines):
    folder("out", {"1": DOT})
    altered = line("3", "1.png")
    altered["files"][0]["sha256"] = "0" * 64
    manifest = write_lines(
        "out/m.jsonl",
        {"id": "1", "status": "failed", "task": "image", "error": {"message": "black picture"}},
        line("2", "2.png"),
        altered,
        {"id": "4", "status": "ok", "task": "text", "files": []},
    )
    with pytest.raises(InputDataError) as caught:
        read_media_set(manifest)
    text = str(caught.value)
    assert "m.jsonl: 4 inputs cannot be scored" in text
    assert "m.jsonl:1: 1 has the status failed: black picture" in text
    assert "m.jsonl:2: 2: there is no file 2.png" in text
    assert "m.jsonl:3: 3: " in text
    assert "is not the file that was hashed here" in text
    assert "m.jsonl:4: 4 has no files" in text


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"id": 3}', b"\xff{}"])
def test_a_broken_line_is_named(tmp_path, content):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n" + content + b"\n")
    with pytest.raises(InputDataError, match=r"m\.jsonl:2: is no JSON"):
        read_media_set(path)
