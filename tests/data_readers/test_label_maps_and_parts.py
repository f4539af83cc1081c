"""ADE20K, COCO-Stuff and the data sets of parts, in the layouts of LISA and VLPart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_photos import (
    HEIGHT,
    WIDTH,
    annotation,
    instances,
    rectangle,
    save_json,
    save_labels,
    save_photo,
)

from llmbind_cli.data.segmentation.asking import Asking
from llmbind_cli.data.segmentation.label_maps import read_class_names, read_label_maps
from llmbind_cli.data.segmentation.parts import part_names, read_parts
from llmbind_cli.errors import InputDataError

OBJECT_INFO = (
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    "1\t0.1576\t11664\t1172\t1\twall\n"
    "2\t0.1072\t6046\t612\t1\tbuilding, edifice\n"
    "3\t0.0878\t8265\t796\t1\tsky\n"
)
STUFF = "0: unlabeled\n1: person\n2: bicycle\n3: wall-brick\n4: sky-other\n5: grass\n"


@pytest.fixture
def ade(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH))
    labels[:10], labels[10:20] = 1, 2
    save_labels(tmp_path / "ade20k/annotations/training/ADE_train_00000001.png", labels)
    save_photo(tmp_path / "ade20k/images/training/ADE_train_00000001.jpg")
    (tmp_path / "ade20k/objectInfo150.txt").write_text(OBJECT_INFO)
    return tmp_path


@pytest.fixture
def stuff(tmp_path):
    labels = np.full((HEIGHT, WIDTH), 255)
    labels[:5], labels[5:10], labels[10:20] = 0, 2, 4
    save_labels(tmp_path / "cocostuff/train2017/000000000009.png", labels)
    save_photo(tmp_path / "coco/train2017/000000000009.jpg")
    (tmp_path / "cocostuff/labels.txt").write_text(STUFF)
    return tmp_path


def test_ade20k_numbers_from_1_and_leaves_0_out(ade):
    (picture,) = read_label_maps("ade", root=ade, dataset="ade20k", split="training").pictures
    assert picture.picture.key == "ade20k/training/ADE_train_00000001.jpg"
    wall, building = picture.regions
    assert wall.names == ("wall",)
    assert building.names == ("building", "edifice")
    assert wall.mask.decode()[:10].all()
    assert wall.mask.decode().sum() == 10 * WIDTH
    assert building.mask.decode()[10:20].all()
    assert wall.ignored.decode()[20:].all()
    assert wall.ignored.decode().sum() == 10 * WIDTH
    answers = {fact.words["x"]: fact.answer for fact in picture.facts}
    assert answers == {"wall": "yes", "building": "yes"}


def test_a_word_that_two_classes_have_means_neither(ade):
    """A first name stays with its class; no class is absent under another name of what is there."""
    (ade / "ade20k/objectInfo150.txt").write_text(
        "Idx\tName\n1\tearth, ground\n2\tland, Ground, soil\n3\ttoilet, can, stool\n4\tstool\n"
    )
    folder = ade / "ade20k/annotations/training"
    labels = np.zeros((HEIGHT, WIDTH))
    for number in range(1, 5):
        labels[number] = number
    save_labels(folder / "ADE_train_00000001.png", labels)
    names = ("ADE_train_00000002", "ADE_train_00000003", "ADE_train_00000004")
    for name in names:
        save_labels(folder / f"{name}.png", np.full((HEIGHT, WIDTH), 3))
        save_photo(ade / f"ade20k/images/training/{name}.jpg")
    whole, *toilets = read_label_maps("ade", root=ade, dataset="ade20k", split="training").pictures
    assert [region.names for region in whole.regions] == [
        ("earth",), ("land", "soil"), ("toilet", "can"), ("stool",),
    ]  # fmt: skip
    denied = {
        fact.words["x"] for picture in toilets for fact in picture.facts if fact.answer == "no"
    }
    assert denied == {"earth", "land"}


def test_coco_stuff_numbers_from_0_and_leaves_hyphens_out(stuff):
    (picture,) = read_label_maps("s", root=stuff, dataset="cocostuff", split="train2017").pictures
    assert picture.picture.key == "coco/9"
    assert [region.names for region in picture.regions] == [("person",), ("grass",)]
    assert picture.regions[0].mask.decode()[:5].all()
    ignored = picture.regions[0].ignored.decode()
    assert ignored[5:10].all()
    assert ignored[20:].all()
    assert ignored.sum() == 15 * WIDTH


def test_labels_of_a_sample_have_255(ade):
    (picture,) = read_label_maps("ade", root=ade, dataset="ade20k", split="training").pictures
    sample = next(iter(Asking(source="ade", task="semantic", plain=0).samples(picture)))
    labels = sample.decode_labels()
    assert set(np.unique(labels)) == {0, 1, 255}
    assert (labels[:, 20:] == 255).all()


def test_lists_of_classes(tmp_path):
    path = tmp_path / "classes"
    path.write_text('["wall", "sky"]')
    assert read_class_names(path) == {1: ("wall",), 2: ("sky",)}
    path.write_text(STUFF)
    assert read_class_names(path)[5] == ("grass",)
    for text, message in (
        ("", "lists no class"),
        ("[1]", "must be a list of names"),
        ("[", "no JSON"),
        ("1: wall\nsky", "line 2: expected a number and a name"),
    ):
        path.write_text(text)
        with pytest.raises(InputDataError, match=message):
            read_class_names(path)


def test_broken_label_maps(ade):
    def read(**options):
        settings = {"root": ade, "dataset": "ade20k", "split": "training"} | options
        return read_label_maps("ade", **settings)

    with pytest.raises(InputDataError, match=r"validation holds no label picture"):
        read(split="validation")
    with pytest.raises(InputDataError, match=r"list of classes is missing; looked for .*nothing"):
        read(classes=ade / "nothing")
    photo = ade / "ade20k/images/training/ADE_train_00000001.jpg"
    photo.rename(ade / "away.jpg")
    with pytest.raises(InputDataError, match="1 of 1 pictures are missing"):
        read()
    labels = ade / "ade20k/annotations/training/ADE_train_00000001.png"
    save_labels(labels, np.full((HEIGHT, WIDTH), 9))
    with pytest.raises(InputDataError, match=r"00001\.png: has the number 9, which is no class"):
        read()
    save_photo(labels)
    with pytest.raises(InputDataError, match="labels need one channel"):
        read()
    labels.write_bytes(b"no picture")
    with pytest.raises(InputDataError, match="cannot be read as a picture"):
        read()


PARTS = [
    ("paco_lvis", "trash_can:rim", ("the rim of the trash can", "trash can rim")),
    ("paco_lvis", "bench_(seat)", ("bench",)),
    ("paco_lvis", "mouse_(computer_equipment):wheel", ("the wheel of the mouse", "mouse wheel")),
    ("paco_lvis", "bucket:inner_side", ("the inner side of the bucket", "bucket inner side")),
    ("pascal_part", "aeroplane:wing", ("the wing of the aeroplane", "aeroplane wing")),
    ("part_imagenet", "Car Side Mirror", ("the side mirror of the car", "car side mirror")),
    ("part_imagenet", "Bicycle Tier", ("the tire of the bicycle", "bicycle tire")),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "category", "names"), PARTS)
def test_names_of_parts(dataset, category, names):
    assert part_names(category, dataset, "x") == names


def test_a_category_without_a_part_is_refused():
    with pytest.raises(InputDataError, match=r"train\.json: the category 'Snake' names no part"):
        part_names("Snake", "part_imagenet", "train.json")


LAYOUTS = [
    ("paco_lvis", "vlpart/paco/annotations/paco_lvis_v1_train.json", "train2017/000000000009.jpg",
     "coco/train2017/000000000009.jpg", "dog:ear", "coco/9"),
    ("pascal_part", "vlpart/pascal_part/train.json", "2008_000002.jpg",
     "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg", "dog:ear",
     "pascal_part/2008_000002.jpg"),
    ("part_imagenet", "vlpart/partimagenet/train.json", "n01440764_10029.JPEG",
     "vlpart/partimagenet/train/n01440764/n01440764_10029.JPEG", "Fish Fin",
     "part_imagenet/n01440764/n01440764_10029.JPEG"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "annotations", "file_name", "photo", "category", "key"), LAYOUTS
)
def test_parts_of_all_things_of_a_class(
    dataset, annotations, file_name, photo, category, key, tmp_path
):
    content = instances(
        {9: file_name},
        {1: category},
        [
            annotation(1, 9, 1, [rectangle(0, 0, 5, 5)]),
            annotation(2, 9, 1, [rectangle(10, 0, 15, 5)]),
        ],
    )
    path = save_json(tmp_path / annotations, content)
    save_photo(tmp_path / photo)
    found = read_parts("parts", root=tmp_path, dataset=dataset)
    (picture,) = found.pictures
    assert picture.picture.key == key
    (region,) = picture.regions
    assert region.naming == "part"
    assert region.mask.decode().sum() == 50
    assert found.files == (path,)
    content["annotations"][1]["category_id"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(InputDataError, match=r"annotations\[1\]: 'category_id' 7 is no category"):
        read_parts("parts", root=tmp_path, dataset=dataset)
