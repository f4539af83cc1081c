"""``report.html``: one file without scripts or anything from elsewhere, and hostile texts in it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from llmbind_cli.evaluation.report_page import examples, plots

IOU = ("--metric", "cIoU", "--metric", "gIoU")
VOID = {"meta", "img", "wbr"}


class Page(HTMLParser):
    """Reads a page, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def attributes(self, tag: str, name: str) -> list[str]:
        return [a[name] or "" for t, a in self.tags if t == tag and name in a]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture
def mask_page(folder, run, tmp_path):
    generator = np.random.default_rng(0)
    true = {f"{n:02}": (np.arange(40) < 2 * n + 2)[None].repeat(30, 0) * 255 for n in range(16)}
    made = {k: np.where(generator.random(v.shape) < 0.02 * int(k), 255 - v, v)
            for k, v in true.items()}  # fmt: skip
    sides = ("--pred", folder("made", made), "--ref", folder("true", true))
    run(*IOU, *sides, "--report", tmp_path / "r", "--fail-under", "cIoU=0.99")
    return page_of(tmp_path / "r")


def test_scores_gates_histogram_and_examples_stand_in_it(mask_page):
    text, page = mask_page
    for words in ("1 of 1 gates failed", "cIoU", "95 % interval", "iou of 16 items",
                  "Worst by iou", "Best by iou", "preprocessing", "missed (orange)"):  # fmt: skip
        assert words in page.text
    bars = [a for t, a in page.tags if t == "rect" and a.get("height") != "6"]
    assert len(bars) == plots.BINS
    uris = page.attributes("img", "src")
    assert len(uris) == 3 * 2 * examples.SHOWN  # prediction, reference, both; worst and best
    kind, _, content = uris[0].partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (40, 30)
    headings = re.findall(r"<h4>(\d\d)</h4>", text)
    assert headings[0] in {"13", "14", "15"}  # the noisiest are the worst
    assert headings[examples.SHOWN] == "00"


def test_words_of_plots_stand_beside_what_is_stretched(mask_page):
    text, page = mask_page
    (drawing,) = re.findall(r'<figure class="histogram">.*?(<svg.*?</svg>)', text)
    assert 'preserveAspectRatio="none"' in drawing
    assert "<text" not in drawing
    assert "0 0.5 1 iou of 16 items" in page.text


def test_nothing_comes_from_elsewhere(mask_page):
    text, page = mask_page
    assert "script" not in {tag for tag, _ in page.tags}
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "a"} == set()
    assert not [name for _, a in page.tags for name in a if name.startswith("on")]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "@import" not in text
    assert "url(" not in text
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text


def test_hostile_texts_stay_texts(write_lines, run, tmp_path):
    evil = '<script>alert(1)</script><img src="http://x" onerror=1> "\' & \x00 \ud800'
    asked = write_lines("a.jsonl", {"id": evil, "prompt": evil, "task": "image", "keep": []},
                        {"id": "2", "prompt": "x", "task": "text", "keep": []})  # fmt: skip
    plan = write_lines(
        "p.jsonl",
        {"id": evil, "status": "ok", "task": "audio", "prompt": evil, "reply": evil},
        {"id": "2", "status": "ok", "task": "text", "prompt": "", "reply": "y"},
    )
    sides = ("--pred", plan, "--ref", asked, "--report", tmp_path / "r")
    assert run("--metric", "routing", *sides)[0] == 0
    text, page = page_of(tmp_path / "r")
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.attributes("img", "src") == []
    assert "<script>alert(1)</script>" in page.text
    assert "Routed wrongly" in page.text
    assert "&lt;script&gt;" in text


def test_confusion_and_router_load(write_lines, run, tmp_path):
    tasks = ["image", "image", "audio", "text"]
    got = ["image", "audio", "audio", "text"]
    asked = write_lines("a.jsonl", *({"id": str(n), "prompt": "…", "task": task, "keep": []}
                                     for n, task in enumerate(tasks)))  # fmt: skip
    plan = write_lines(
        "p.jsonl",
        *({"id": str(n), "status": "ok", "task": task, "prompt": "", "reply": "",
           "router_load": {"layers.1.mlp": [n / 4, 1 - n / 4]}}
          for n, task in enumerate(got)),
    )  # fmt: skip
    sides = ("--pred", plan, "--ref", asked, "--report", tmp_path / "r")
    assert run("--metric", "routing", *sides)[0] == 0
    load = json.loads((tmp_path / "r" / "report.json").read_text())["details"]["routing"]
    assert load["router_load"]["image"]["layers.1.mlp"] == pytest.approx([1 / 8, 7 / 8])
    text, page = page_of(tmp_path / "r")
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>((?:<td class.*?</td>)+)</tr>', text)
    counts = {row: re.findall(r">(\d|·)<", cells) for row, cells in rows}
    assert counts == {
        "audio": ["1", "·", "·"], "image": ["1", "1", "·"], "text": ["·", "·", "1"],
    }  # fmt: skip
    opacities = [float(value) for value in page.attributes("rect", "fill-opacity")]
    assert opacities == pytest.approx([0.5, 0.5, 0.125, 0.875, 0.75, 0.25])
    assert "image, layers.1.mlp, expert 1: 87.5%" in page.text
    (drawing,) = (a for t, a in page.tags if t == "svg" and a.get("class") == "heat")
    # Neither stretched nor shrunk: so its words keep their size.
    assert drawing["style"] == f"width: {drawing['viewbox'].split()[2]}px"


def test_pictures_stop_at_the_budget(pictures, run, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "BUDGET_BYTES", 6000)
    made, true = pictures("made", noise=30, n=8, side=64), pictures("true", n=8, side=64)
    sides = ("--pred", made, "--ref", true, "--report", tmp_path / "r")
    assert run("--metric", "PSNR", "--metric", "SSIM", *sides)[0] == 0
    _, page = page_of(tmp_path / "r")
    size = sum(len(base64.b64decode(u.partition(",")[2])) for u in page.attributes("img", "src"))
    assert 0 < size <= 6000
    assert "left out: the page is full" in page.text
    assert "PSNR of 8 items" in page.text
    assert "SSIM of 8 items" in page.text


def test_large_pictures_become_small(pictures, run, tmp_path):
    made, true = pictures("made", noise=3, n=2, side=900), pictures("true", n=2, side=900)
    run("--metric", "PSNR", "--pred", made, "--ref", true, "--report", tmp_path / "r")
    _, page = page_of(tmp_path / "r")
    for uri in page.attributes("img", "src"):
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            assert max(picture.size) == examples.SIDE_PX


def test_bins_hold_every_value_once():
    values = [0.0, 0.05, 0.999, 1.0, 0.5, 0.5]
    counts = re.findall(r": (\d+)</title>", plots.histogram(values, name="x"))
    assert sum(map(int, counts)) == 6
    assert (counts[0], counts[1], counts[10], counts[-1]) == ("1", "1", "2", "2")
    counts = re.findall(r": (\d+)</title>", plots.histogram([7.0, 7.0], name="x"))
    assert sum(map(int, counts)) == 2
