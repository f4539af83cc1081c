"""The gallery: everything in a folder is on its page, escaped, and nothing else is loaded."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from llmbind_cli.errors import InputDataError
from llmbind_cli.gallery import write_gallery

HOSTILE = '<script>alert("hi")</script> & \'<b>\' "x" onerror=y'


def line(item_id: str, **fields: object) -> dict[str, object]:
    return {
        "id": item_id, "status": "ok", "task": "image", "prompt": "a cat", "reply": None,
        "files": [], "seed": 7, "model": "tiny@0123", "seconds": 1.5, "error": None, **fields,
    }  # fmt: skip


def file(name: str, media_type: str) -> dict[str, str]:
    return {"path": f"elsewhere/{name}", "sha256": "0" * 64, "media_type": media_type}


@pytest.fixture
def folder(tmp_path):
    """Writes files and a manifest, and returns the folder."""

    def write(*lines: dict[str, object], manifest: str = "manifest.jsonl") -> Path:
        with (tmp_path / manifest).open("w") as stream:
            for fields in lines:
                stream.write(json.dumps(fields) + "\n")
                for made in fields["files"]:
                    (tmp_path / Path(made["path"]).name).write_bytes(b"content")
        return tmp_path

    return write


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def attributes(self, tag, name):
        return [attributes.get(name) for found, attributes in self.elements if found == tag]


def page_of(folder: Path) -> Page:
    return Page(write_gallery(folder).read_text(encoding="utf-8"))


def test_pictures_clips_and_sounds_are_linked_and_described(folder):
    page = page_of(folder(
        line("1", files=[file("1-image-0.png", "image/png")]),
        line("2", task="video", prompt="rain", files=[file("2-video-0.mp4", "video/mp4")]),
        line("3", task="audio", prompt="a bell", files=[file("3-audio-0.wav", "audio/wav")]),
        line("4", task="video", prompt="a loop", files=[file("4-video-0.gif", "image/gif")]),
    ))  # fmt: skip
    assert page.open == []
    assert page.attributes("img", "src") == ["1-image-0.png", "4-video-0.gif"]
    assert page.attributes("img", "alt") == ["a cat", "a loop"]
    assert page.attributes("video", "src") == ["2-video-0.mp4"]
    assert page.attributes("video", "aria-label") == ["rain"]
    assert page.attributes("audio", "src") == ["3-audio-0.wav"]


def test_facts_errors_and_replies_stand_beside_them(folder):
    page = page_of(folder(
        line("first", reply="Sure: <gen>a cat</gen>", files=[file("a.png", "image/png")]),
        line("second", status="failed", error={"code": 65, "message": "too long"}),
        line("third", status="empty", task="text", prompt="", reply="Hello there."),
    ))  # fmt: skip
    for expected in (
        "3 results, 1 failed", "Sure: <gen>a cat</gen>", "too long", "Hello there.", "first",
        "seed", "7", "tiny@0123",
    ):  # fmt: skip
        assert expected in page.words


def test_a_reply_is_open_where_nothing_else_was_made(folder):
    page = page_of(folder(
        line("1", reply="Sure: <gen>a cat</gen>", files=[file("a.png", "image/png")]),
        line("2", task="text", prompt="Hello?", reply="Hello there."),
    ))  # fmt: skip
    assert ["open" in found for tag, found in page.elements if tag == "details"] == [False, True]


def test_hostile_words_stay_text(folder):
    page = page_of(folder(
        line(HOSTILE, prompt=HOSTILE, reply=f"{HOSTILE}!", model=HOSTILE, task=HOSTILE,
             files=[file("a.png", "image/png")]),
        line("2", status="failed", error={"code": 65, "message": HOSTILE}),
    ))  # fmt: skip
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.attributes("img", "alt") == [HOSTILE]
    assert page.words.count(HOSTILE) == 6
    assert not any(name.startswith("on") for _, found in page.elements for name in found)


@pytest.mark.parametrize("name", ["a b#1?.png", "javascript:x.png", "100%.png", "ü.png"])
def test_odd_file_names_are_linked(folder, name):
    (link,) = page_of(folder(line("1", files=[file(name, "image/png")]))).attributes("img", "src")
    assert unquote(link) == name
    assert not set(link) & set("#?: ")


def test_only_files_of_the_folder_are_shown(folder, tmp_path):
    lines = line("1", files=[])
    lines["files"] = [{"path": "../../secret.png", "media_type": "image/png"}]
    outside = tmp_path.parent.parent / "secret.png"
    assert not outside.exists()
    (tmp_path / "manifest.jsonl").write_text(json.dumps(lines))
    page = page_of(tmp_path)
    assert page.attributes("img", "src") == []
    assert "secret.png is gone" in page.words


def test_nothing_is_fetched_and_nothing_runs(folder):
    made = folder(line("1", files=[file("a.png", "image/png")]), line("2", task="audio"))
    text = write_gallery(made).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", text)
    policy = Page(text).attributes("meta", "content")[-1]
    assert policy.startswith("default-src 'none'")


def test_each_task_can_be_shown_alone(folder):
    made = folder(
        line("1"), line("2"), line("3", task="audio"),
        line("4", status="failed", error={"code": 3, "message": "no"}),
        line("5", task="unheard-of"),
    )  # fmt: skip
    text = write_gallery(made).read_text(encoding="utf-8")
    page = Page(text)
    assert page.attributes("input", "id") == [
        "show-all", "show-image", "show-audio", "show-failed", "show-other",
    ]  # fmt: skip
    assert page.attributes("article", "class") == ["image", "image", "audio", "failed", "other"]
    assert "body:has(#show-audio:checked) article:not(.audio) { display: none; }" in text


def test_one_kind_of_result_needs_no_filter(folder):
    assert page_of(folder(line("1"), line("2"))).attributes("input", "id") == []


def test_a_rerun_shows_each_result_once(folder):
    failed = {"status": "failed", "error": {"code": 75, "message": "try later"}}
    page = page_of(folder(
        line("1", **failed),
        line("2", task="text", prompt="", seed=None, **failed),
        line("1", files=[file("1.png", "image/png")]),
        line("2", files=[file("2.png", "image/png")]),
        line("2", task="audio", prompt="a bell"),
    ))  # fmt: skip
    assert page.attributes("article", "class") == ["image", "image", "audio"]
    assert "try later" not in page.words


def test_results_of_one_wish_that_have_files_of_their_own_are_all_shown(folder):
    made = [line("1", files=[file(name, "image/png")]) for name in ("1.png", "1-0a.png", "1.png")]
    page = page_of(folder(*made))
    assert page.attributes("img", "src") == ["1-0a.png", "1.png"]


def test_the_manifests_of_shards_count_as_one(folder):
    folder(line("1"), manifest="manifest-1-of-2.jsonl")
    page = page_of(folder(line("2"), manifest="manifest-2-of-2.jsonl"))
    assert len(page.attributes("article", "class")) == 2


def test_torn_and_foreign_lines_are_left_out(folder):
    made = folder(line("1"))
    with (made / "manifest.jsonl").open("a") as stream:
        stream.write('[1]\n{"id": 3}\n{"id": "2", "sta')
    assert len(page_of(made).attributes("article", "class")) == 1


def test_an_empty_manifest_gives_an_empty_page(folder):
    assert "Nothing was made yet." in page_of(folder()).words


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(InputDataError, match=r"has no manifest\.jsonl"):
        write_gallery(tmp_path)


def test_half_a_character_in_a_prompt_does_not_stop_the_page(folder):
    assert "a ? cat" in page_of(folder(line("1", prompt="a \ud800 cat"))).words
