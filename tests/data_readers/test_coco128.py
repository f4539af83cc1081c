"""COCO128: the split that stands in the package, and expressions by class and place."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tiny_photos import WIDTH, annotation, instances, rectangle, save_json, save_photo

from llmbind_cli.data.segmentation.asking import Asking
from llmbind_cli.data.segmentation.coco128 import read_coco128
from llmbind_cli.data.segmentation.coco128_split import coco128_images
from llmbind_cli.data.segmentation.instances import read_coco_instances
from llmbind_cli.errors import InputDataError


@pytest.fixture
def coco128(shared_data):
    folder = shared_data / "coco128"
    if not folder.is_dir():
        pytest.skip("there is no coco128 in the shared data folder")
    return folder


def test_the_split_is_96_and_32_photos_that_share_nothing():
    train, held_out = coco128_images("train"), coco128_images("held_out")
    assert (len(train), len(held_out)) == (96, 32)
    assert not train & held_out
    # Frozen: figures of earlier runs hold for these photos only.
    assert sum(held_out) == 11_804


@pytest.mark.shared
def test_all_photos_are_there_and_every_expression_has_pixels(coco128):
    names = set()
    for split, most in (("train", 96), ("held_out", 32)):
        found = read_coco128("coco128", root=coco128, split=split)
        assert most - 3 <= found.counts.pictures <= most
        names |= {picture.picture.key for picture in found.pictures}
        asking = Asking(source="coco128", task="semantic")
        for picture in found.pictures[:12]:
            height, width = np.asarray(picture.picture.load()).shape[:2]
            for sample in asking.samples(picture):
                sample.check_size(height, width)
                masks = sample.decode_masks()
                assert len(masks) == len(sample.segments)
                assert all(mask.any() for mask in masks)
    content = json.loads((coco128 / "annotations/instances_train2017.json").read_text())
    assert names <= {f"coco/{image['id']}" for image in content["images"]}


@pytest.mark.shared
def test_places_are_true_of_the_annotations(coco128):
    found = read_coco128("coco128", root=coco128, split="train")
    checked = 0
    for picture in found.pictures:
        areas = {r.names[0]: r for r in picture.regions if r.naming == "class"}
        for region in picture.regions:
            if region.naming != "phrase":
                continue
            mask = region.mask.decode()
            whole = areas[region.category].mask.decode()
            assert (whole & mask).sum() == mask.sum()  # it is one of its class
            match = re.fullmatch(
                rf"the (?:leftmost )?{region.category}(?: .*left)?", region.names[0]
            )
            if match and "of the" not in region.names[0]:
                others = whole & ~mask
                if others.any():
                    middle = np.nonzero(mask)[1].mean()
                    assert middle < np.nonzero(others)[1].mean()
                    checked += 1
    assert checked > 3


def tiny(tmp_path, *annotations, name="000000000009.jpg"):
    content = instances({9: name}, {1: "dog", 2: "cat", 3: "truck", 4: "car"}, list(annotations))
    save_json(tmp_path / "instances.json", content)
    save_photo(tmp_path / "photos" / name)
    found = read_coco_instances(
        "coco", annotations=tmp_path / "instances.json", photos=tmp_path / "photos", places=True
    )
    return found.pictures[0]


def at(number, category, left, *, side=8, **fields):
    box = rectangle(left, 10, left + side, 10 + side)
    return annotation(number, 9, category, [box], bbox=[left, 10, side, side], **fields)


def said(picture):
    return " ".join(r.names[0] for r in picture.regions if r.naming == "phrase")


def test_two_of_a_class_are_told_apart(tmp_path):
    picture = tiny(tmp_path, at(1, 1, 2), at(2, 1, 30))
    places = [region for region in picture.regions if region.naming == "phrase"]
    assert places
    for region in places:
        left = region.mask.decode()[:, : WIDTH // 2].any()
        assert left == ("left" in region.names[0]), region.names
    assert {"how_many"} <= {fact.kind for fact in picture.facts}
    assert next(f.answer for f in picture.facts if f.kind == "how_many") == "two"


def test_a_crowd_and_a_look_alike_make_expressions_unfit(tmp_path):
    crowd = tiny(tmp_path / "a", at(1, 1, 2), at(2, 1, 30, iscrowd=1), at(3, 2, 16))
    assert "dog" not in said(crowd)
    assert not any(f.kind == "how_many" and "dog" in f.words["x"] for f in crowd.facts)
    kin = tiny(tmp_path / "b", at(1, 3, 2), at(2, 4, 4))
    assert not re.search(r"the (car|truck) (on|at|to the left$)|most", said(kin))


def test_small_things_are_not_asked_for(tmp_path):
    picture = tiny(tmp_path, at(1, 1, 2), at(2, 1, 30, side=2))
    assert all(region.mask.decode().sum() > 10 for region in picture.regions)
    assert not any(fact.kind == "how_many" for fact in picture.facts)


def test_a_folder_with_other_photos_is_refused(tmp_path):
    content = instances({9: "000000000009.jpg"}, {1: "dog"}, [at(1, 1, 2)])
    save_json(tmp_path / "annotations/instances_train2017.json", content)
    with pytest.raises(InputDataError, match=r"lacks \d+ of the images to take, first \d+"):
        read_coco128("coco128", root=tmp_path, split="train")
