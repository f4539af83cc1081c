"""Recipes with pictures: shares, dry runs that check and show them, overlap with evaluation."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny_photos import (
    HEIGHT,
    WIDTH,
    annotation,
    instances,
    rectangle,
    save_json,
    save_photo,
    save_refcoco,
)

from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.world import load_world
from llmbind_cli.errors import ConfigurationError, InputDataError
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.recipes.shares import paper_shares
from llmbind_cli.training.run import train
from llmbind_cli.training.sources import read_source

REFER = """
[[data]]
name = "refs"
kind = "refer"
root = "refer_seg"
dataset = "refcoco"
plain = 0.4
"""
VALIDATION = """
[[evaluation]]
name = "refs-test"
kind = "refer"
root = "refer_seg"
dataset = "refcoco"
split = "testA"
"""
COCO = """
[[data]]
name = "coco"
kind = "coco"
annotations = "coco/instances.json"
photos = "coco/train2017"
"""
VQA = """
[[data]]
name = "vqa"
kind = "conversations"
paths = ["vqa.json"]
images = ["llava", "elsewhere"]
"""


def add(recipe, *tables, tasks=("image", "segment")):
    """Put tables into a recipe, before its optimizer."""
    text = recipe.read_text().replace("[optim]", "\n".join([*tables, "[optim]"]))
    listed = ", ".join(f'"{task}"' for task in tasks)
    recipe.write_text(text.replace("[lora_moe]", f"[tokens]\ntasks = [{listed}]\n[lora_moe]", 1))


@pytest.fixture
def pictured(recipe):
    """A recipe beside small data sets."""
    folder = recipe.parent
    save_refcoco(folder / "refer_seg")
    content = instances(
        {9: "000000000009.jpg", 30: "000000000030.jpg"},
        {1: "dog", 2: "cat"},
        [
            annotation(1, 9, 1, [rectangle(1, 1, 9, 9)]),
            annotation(2, 30, 2, [rectangle(1, 1, 9, 9)]),
        ],
    )
    save_json(folder / "coco/instances.json", content)
    for number in (9, 30):
        save_photo(folder / f"coco/train2017/{number:012d}.jpg", seed=100 + number)
    save_photo(folder / "llava/coco/train2017/000000000077.jpg", seed=7)
    save_photo(folder / "elsewhere/gqa/images/1.jpg", seed=8)
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."}]
    runs = {"size": [HEIGHT, WIDTH], "counts": [3, 5, HEIGHT * WIDTH - 8], "phrase": "it"}
    marked = [{"from": "human", "value": "Mark it.\n<image>"}, {"from": "gpt", "value": "<seg>."}]
    records = [
        {"id": "a", "image": "coco/train2017/000000000077.jpg", "conversations": said},
        {"id": "b", "image": "gqa/images/1.jpg", "conversations": marked, "masks": [runs]},
        {
            "id": "c",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        },
    ]
    save_json(folder / "vqa.json", records)
    return recipe


def dry_run(recipe, capsys, *overrides):
    console.json = True
    error = None
    try:
        train(recipe, dry_run=True, overrides=overrides, output=recipe.parent / "out")
    except InputDataError as raised:
        error = raised
    return json.loads(capsys.readouterr().out), error


def test_a_dry_run_counts_checks_and_shows(pictured, capsys):
    add(pictured, REFER, VALIDATION, VQA)
    report, error = dry_run(pictured, capsys)
    assert error is None, error
    sources = {source["name"]: source for source in report["data"]["sources"]}
    assert (sources["refs"]["pictures"], sources["refs"]["masks"]) == (1, 3)
    assert (sources["vqa"]["pictures"], sources["vqa"]["masks"]) == (2, 1)
    assert sources["vqa"]["dialogues"] == 3
    assert sources["talk"]["pictures"] == 0
    assert [entry["masks"] for entry in report["data"]["evaluation"]] == [1]
    assert report["data"]["shared_pictures"] == []
    assert report["data"]["calls"]["segment"] >= 3
    shares = {name: source["share"] for name, source in sources.items()}
    assert shares == pytest.approx({"talk": 1 / 3, "refs": 1 / 3, "vqa": 1 / 3}, abs=0.05)
    written = sorted(path.name for path in (pictured.parent / "out" / "dry-run").iterdir())
    assert {"refs-1.png", "refs-1.txt", "refs-test-1.png", "vqa-1.png", "vqa-2.txt"} <= set(written)
    assert len(report["sample_pictures"]) == len([name for name in written if name.endswith("png")])
    shown = np.asarray(Image.open(pictured.parent / "out/dry-run/vqa-2.png"))
    photo = np.asarray(Image.open(pictured.parent / "elsewhere/gqa/images/1.jpg"))
    assert (shown != photo).any(axis=-1).sum() == 5
    text = (pictured.parent / "out/dry-run/vqa-2.txt").read_text()
    assert "USER: Mark it." in text
    assert "ASSISTANT: <seg>." in text
    assert "1. 'it': 5 px" in text


def test_the_text_report_tells_of_pictures(pictured, capsys):
    add(pictured, REFER, VALIDATION)
    train(pictured, dry_run=True, output=pictured.parent / "out")
    out = capsys.readouterr().out
    assert "refs: 1 pictures, 3 masks" in out
    assert "refs-test: 1 dialogues, 1 pictures, 1 masks" in out
    assert "pictures that training has too, by name or content: 0" in out
    assert str(pictured.parent / "out" / "dry-run" / "refs-1.png") in out


def test_nothing_is_written_without_pictures(recipe, capsys):
    report, error = dry_run(recipe, capsys)
    assert error is None
    assert report["sample_pictures"] == []
    assert not (recipe.parent / "out").exists()


def test_a_shared_picture_is_an_error_by_name(pictured, capsys):
    add(pictured, COCO, VALIDATION.replace("testA", "train"))
    report, error = dry_run(pictured, capsys)
    assert "1 pictures to be evaluated on are trained on: coco/9 of refs-test in coco" in str(error)
    assert 'overlap = "drop"' in str(error)
    assert report["data"]["shared_pictures"] == [
        {"trained": "coco/9", "trained_in": "coco", "evaluated": "coco/9",
         "evaluated_in": "refs-test", "by": "id"}
    ]  # fmt: skip
    _, error = dry_run(pictured, capsys, "overlap=allow")
    assert error is None
    report, error = dry_run(pictured, capsys, "overlap=drop")
    assert error is None
    coco = report["data"]["sources"][-1]
    assert coco["pictures"] == 1
    assert coco["dropped"] >= 1


def test_a_shared_picture_is_an_error_by_content(pictured, capsys):
    folder = pictured.parent
    photo = folder / "refer_seg/images/mscoco/images/train2014/COCO_train2014_000000000025.jpg"
    (folder / "llava/coco/train2017/000000000077.jpg").write_bytes(photo.read_bytes())
    add(pictured, VQA, VALIDATION, tasks=("image", "segment"))
    report, error = dry_run(pictured, capsys)
    assert "coco/25 of refs-test is coco/77 of vqa" in str(error)
    assert [one["by"] for one in report["data"]["shared_pictures"]] == ["content"]


def test_missing_pictures_are_told_before_training(pictured, capsys):
    (pictured.parent / "elsewhere/gqa/images/1.jpg").unlink()
    (pictured.parent / "coco/train2017/000000000030.jpg").unlink()
    add(pictured, VQA, COCO)
    report, error = dry_run(pictured, capsys)
    assert "vqa: 1 of 2 pictures are missing" in str(error)
    assert "llava/gqa/images/1.jpg" in str(error)
    assert "coco: 1 of 2 pictures are missing" in str(error)
    assert len(report["problems"]) == 2
    report, error = dry_run(
        pictured, capsys, "data.1.skip_missing=true", "data.2.skip_missing=true"
    )
    assert error is None
    assert [source["skipped"] for source in report["data"]["sources"]] == [0, 1, 1]


def test_a_damaged_picture_is_a_problem(pictured, capsys):
    (pictured.parent / "coco/train2017/000000000009.jpg").write_bytes(b"no picture")
    save_photo(pictured.parent / "coco/train2017/000000000030.jpg", size=(8, 9))
    add(pictured, COCO)
    _, error = dry_run(pictured, capsys)
    assert "cannot be read as a picture" in str(error) or "the masks are 30 × 40 px" in str(error)


def test_masks_and_records_of_conversations_must_agree(pictured):
    records = json.loads((pictured.parent / "vqa.json").read_text())
    records[1]["masks"] = []
    save_json(pictured.parent / "vqa.json", records)
    add(pictured, VQA)
    with pytest.raises(InputDataError, match="a mask for each of its 1 segmentation tokens"):
        list(read_source(load_recipe(pictured).data[1]))
    records[1]["image"] = "../../etc/passwd"
    save_json(pictured.parent / "vqa.json", records)
    with pytest.raises(InputDataError, match="b: 'image' must be a path below the folders"):
        list(read_source(load_recipe(pictured).data[1]))


def test_pictures_of_conversations_stay_words_without_folders(pictured):
    add(pictured, VQA.replace('images = ["llava", "elsewhere"]\n', ""))
    dialogues = list(read_source(load_recipe(pictured).data[1]))
    assert not any(isinstance(dialogue, Sample) for dialogue in dialogues)
    assert dialogues[0].image == "coco/train2017/000000000077.jpg"


def test_a_smaller_number_of_pictures_is_within_a_larger_one(pictured):
    content = instances(
        {n: f"{n:012d}.jpg" for n in range(1, 21)},
        {1: "dog"},
        [annotation(n, n, 1, [rectangle(1, 1, 9, 9)]) for n in range(1, 21)],
    )
    save_json(pictured.parent / "coco/instances.json", content)
    for number in range(1, 21):
        save_photo(pictured.parent / f"coco/train2017/{number:012d}.jpg")
    add(pictured, COCO)

    def keys(count):
        source = load_recipe(pictured, [f"data.1.pictures={count}"]).data[1]
        return {sample.pictures[0].key for sample in read_source(source)}

    assert len(keys(5)) == 5
    assert keys(5) < keys(9)
    assert len(keys(100)) == 20


@pytest.mark.parametrize(
    ("parts", "shares"),
    [
        (["semantic", "refer", "reason", "vqa", "interactive"], [9 / 13, 3 / 13, 1 / 13, 1, 1]),
        (["semantic", "semantic", "refer", "vqa"], [9 / 24, 9 / 24, 3 / 12, 1]),
        (["interactive"] * 4, [0.25] * 4),
        (["refer", "interactive"], [1, 1]),
    ],
)
def test_the_paper_s_shares(parts, shares):
    assert paper_shares(parts) == pytest.approx(shares)


def test_given_weights_win_and_dialogues_alone_have_none(pictured):
    assert load_recipe(pictured).shares() is None
    add(pictured, REFER + "weight = 2.0")
    text = pictured.read_text().replace(
        'paths = ["talk.jsonl"]', 'paths = ["talk.jsonl"]\nweight = 1.0'
    )
    pictured.write_text(text)
    assert load_recipe(pictured).shares() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (REFER.replace("plain", "plan"), "unknown key data.1.plan; did you mean plain"),
        (REFER.replace('"refcoco"', '"refcoc"'), "data.1.dataset must be 'refcoco'"),
        (REFER.replace("0.4", "1.0"), "data.1.plain must be < 1"),
        (
            VALIDATION.replace("split", "spilt"),
            "unknown key evaluation.0.spilt; did you mean split",
        ),
        (VALIDATION.replace('"refer"', '"builder"'), "evaluation.0.kind must be one of"),
        (VALIDATION.replace('"refs-test"', '"talk"'), "different names"),
        (VQA.replace('images = ["llava", "elsewhere"]', "skip_missing = true"), "needs images"),
    ],
)
def test_wrong_tables_are_refused(pictured, table, message):
    add(pictured, table)
    with pytest.raises(ConfigurationError, match=message):
        load_recipe(pictured)


def test_masks_need_their_token(pictured):
    add(pictured, REFER, tasks=("image",))
    with pytest.raises(ConfigurationError, match=r"refs teaches masks, so tokens\.tasks must have"):
        load_recipe(pictured)


SCENES = """
[[data]]
name = "scenes"
kind = "scenes"
sprites = "sheet.npz"
photos = "coco/train2017"
count = 9
size_px = 48
"""
UNSEEN = SCENES.replace("data", "evaluation").replace('"scenes"\nkind', '"unseen"\nkind')


@pytest.fixture
def sheet(pictured):
    """Sprites for the whole world: one disc for everything."""
    codes = [code for thing in load_world() for code in thing.codes]
    y, x = np.mgrid[0:8, 0:8] - 3.5
    disc = np.zeros((8, 8, 4), np.uint8)
    disc[np.hypot(x, y) < 3.5] = (200, 40, 40, 255)
    path = pictured.parent / "sheet.npz"
    np.savez(path, codes=np.array(codes), pictures=np.stack([disc] * len(codes)))
    for number in range(20, 40):
        save_photo(
            pictured.parent / f"coco/train2017/photo{number}.jpg", seed=number, size=(70, 70)
        )
    return path


def test_drawn_scenes_are_sources_and_evaluation(pictured, sheet, capsys):
    add(pictured, SCENES, UNSEEN + 'split = "held_out_things"')
    report, error = dry_run(pictured, capsys)
    assert error is None, error
    source = report["data"]["sources"][1]
    assert (source["dialogues"], source["pictures"]) == (9, 9)
    assert source["masks"] > 3
    assert report["data"]["evaluation"][0]["pictures"] == 9
    with Image.open(pictured.parent / "out/dry-run/scenes-1.png") as shown:
        assert shown.size == (48, 48)
    reader = read_source(load_recipe(pictured).data[1])
    assert len(list(reader)) == 9
    assert list(reader.describe()["files"]) == ["sheet.npz"]


def test_the_same_row_on_both_sides_is_found_by_content(pictured, sheet, capsys):
    add(pictured, SCENES, UNSEEN)
    _, error = dry_run(pictured, capsys)
    assert "are trained on: photos/photo" in str(error)  # the photos behind the things


def test_a_sheet_that_lacks_sprites_is_refused(pictured, sheet):
    np.savez(sheet, codes=np.array(["1f415"]), pictures=np.zeros((1, 8, 8, 4), np.uint8))
    add(pictured, SCENES)
    with pytest.raises(InputDataError, match=r"sheet\.npz lacks \d+ sprites"):
        list(read_source(load_recipe(pictured).data[1]))
    sheet.write_bytes(b"no sheet")
    with pytest.raises(InputDataError, match="is no sheet of sprites"):
        list(read_source(load_recipe(pictured).data[1]))


@pytest.mark.parametrize(
    ("table", "reader"),
    [
        ('kind = "reason_seg"\nroot = "nowhere"', "x: .*nowhere/train is missing"),
        ('kind = "label_maps"\nroot = "nowhere"\ndataset = "ade20k"\nsplit = "training"',
         "nowhere/ade20k/annotations/training holds no label picture"),
        ('kind = "parts"\nroot = "nowhere"\ndataset = "pascal_part"',
         r"nowhere/vlpart/pascal_part/train\.json: cannot be read"),
        ('kind = "coco128"\nroot = "nowhere"',
         r"nowhere/annotations/instances_train2017\.json: cannot be read"),
    ],
)  # fmt: skip
def test_every_kind_has_its_reader_and_paths_start_at_the_recipe(pictured, table, reader, capsys):
    add(pictured, f'[[data]]\nname = "x"\n{table}')
    report, error = dry_run(pictured, capsys)
    assert error is not None
    assert re.search(reader, report["problems"][0])
    assert str(pictured.parent) in report["problems"][0]


def test_training_on_pictures_is_refused_where_the_recipe_sees_none(pictured):
    add(pictured, REFER)
    with pytest.raises(ConfigurationError, match=r"refs has pictures.* no \[sight\]"):
        train(pictured, output=pictured.parent / "out")
