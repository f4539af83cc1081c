"""refCOCO's files: pickles that cannot run anything, splits, masks, missing photos."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
from tiny_photos import HEIGHT, WIDTH, annotation, instances, save_json, save_photo, save_refcoco

from llmbind_cli.data.segmentation.plain_pickle import load_plain_pickle
from llmbind_cli.data.segmentation.refer import read_refer
from llmbind_cli.errors import InputDataError


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/llmbind-was-here",)


@pytest.fixture
def root(tmp_path):
    return save_refcoco(tmp_path / "refer_seg")


def read(root, **options):
    settings = {"root": root, "dataset": "refcoco", "split": "train"} | options
    return read_refer("refs", **settings)


def test_expressions_of_a_split_with_their_masks(root):
    found = read(root)
    (picture,) = found.pictures
    assert picture.id == "9"
    assert picture.picture.key == "coco/9"
    assert (
        picture.picture.path
        == root / "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
    )
    dog, cat = picture.regions
    assert dog.names == ("left dog", "the dog")
    assert dog.naming == "phrase"
    mask = dog.mask.decode()
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.sum() == 100 + 100 - 25
    assert cat.mask.decode()[5:15, 20:30].all()
    assert found.counts.as_fields() == {
        "pictures": 1, "regions": 2, "names": 3, "facts": 4, "missing": 0, "empty": 0,
    }  # fmt: skip
    assert [path.name for path in found.files] == ["refs(unc).p", "instances.json"]


@pytest.mark.parametrize(("split", "ids"), [("testA", ["25"]), ("test", ["25"])])
def test_test_splits(root, split, ids):
    assert [picture.id for picture in read(root, split=split).pictures] == ids


def test_a_split_that_is_not_there(root):
    with pytest.raises(InputDataError, match=r"no expression is of the split 'val'.*testA, train"):
        read(root, split="val")


@pytest.mark.parametrize("dataset", ["refcoco+", "refcocog"])
def test_the_relatives_have_their_own_splitters(tmp_path, dataset):
    assert read(save_refcoco(tmp_path, dataset), dataset=dataset).counts.names == 3


def test_refclef_has_its_own_photos_and_lists_of_rle(tmp_path):
    folder = tmp_path / "refclef"
    save_photo(tmp_path / "images/saiapr_tc-12" / "19/images/19010.jpg")
    runs = {"size": [HEIGHT, WIDTH], "counts": [30, 60, HEIGHT * WIDTH - 90]}
    content = instances({19010: "19/images/19010.jpg"}, {7: "7"}, [annotation(1, 19010, 7, [runs])])
    save_json(folder / "instances.json", content)
    sentence = {"tokens": [], "raw": "", "sent_id": 1, "sent": "sky"}
    ref = {"ref_id": 1, "ann_id": 1, "image_id": 19010, "split": "train", "sentences": [sentence]}
    save_json(folder / "refs(unc).json", [ref])
    (picture,) = read(tmp_path, dataset="refclef").pictures
    assert picture.picture.key == "refclef/19/images/19010.jpg"
    assert picture.regions[0].mask.decode()[:, 1:3].all()
    assert picture.facts == ()


def test_converted_json_is_read_alike(root):
    before = read(root)
    pickled = root / "refcoco" / "refs(unc).p"
    save_json(pickled.with_suffix(".json"), load_plain_pickle(pickled))
    pickled.unlink()
    after = read(root)
    assert [p.regions[0].names for p in after.pictures] == [
        p.regions[0].names for p in before.pictures
    ]


def test_a_pickle_runs_nothing(root, tmp_path):
    marker = tmp_path / "ran"
    path = root / "refcoco" / "refs(unc).p"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(InputDataError, match=r"refs\(unc\)\.p: is no pickle.*os\.system"):
        read(root)
    path.write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(InputDataError, match=r"(posix|os)\.system"):
        read(root)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no pickle of plain values"),
        (b"not a pickle at all", "is no pickle of plain values"),
        (pickle.dumps([1, 2, 3])[:-3], "is no pickle of plain values"),
        (pickle.dumps({1, 2}), "holds a set"),
        (pickle.dumps([b"bytes"], protocol=4), "holds a bytes"),
        (pickle.dumps({(1, 2): 3}), "a key is neither text nor a number"),
        (b"(lp0\nPan id\na.", "outside of the file"),
        (b"\x80\x02}q\x00(U\x01aU\x01bu\x82\x01.", "is no pickle of plain values"),
    ],
)
def test_only_plain_values_pass(tmp_path, content, message):
    path = tmp_path / "x.p"
    path.write_bytes(content)
    with pytest.raises(InputDataError, match=message):
        load_plain_pickle(path)


def test_plain_values_of_python_2_and_3(tmp_path):
    path = tmp_path / "x.p"
    value = {"a": [1, 2.5, None, True, ("x", "ü")], "b": {}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(value, protocol))
        assert load_plain_pickle(path) == value
    path.write_bytes(b"(lp0\nS'caf\\xc3\\xa9'\np1\na.")
    assert load_plain_pickle(path) == ["café"]
    path.write_bytes(b"(lp0\nS'caf\\xe9'\np1\na.")
    assert load_plain_pickle(path) == ["café"]
    within: list = []
    within.append(within)
    path.write_bytes(pickle.dumps([within, within]))
    assert len(load_plain_pickle(path)) == 2


def test_missing_photos_are_listed_or_counted(root):
    photo = root / "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
    photo.unlink()
    with pytest.raises(InputDataError, match=r"refs: 1 of 1 pictures are missing.*\n.*000009\.jpg"):
        read(root)
    with pytest.raises(
        InputDataError, match="holds no picture with a region; 1 pictures are missing"
    ):
        read(root, skip_missing=True)


def test_a_long_list_of_missing_photos_is_cut(tmp_path):
    content = instances(
        {n: f"COCO_train2014_{n:012d}.jpg" for n in range(1, 31)},
        {1: "dog"},
        [annotation(n, n, 1, [[1, 1, 5, 1, 5, 5]]) for n in range(1, 31)],
    )
    save_json(tmp_path / "refcoco/instances.json", content)
    refs = [
        {"ann_id": n, "image_id": n, "split": "train", "sentences": [{"sent": "dog"}]}
        for n in range(1, 31)
    ]
    save_json(tmp_path / "refcoco/refs(unc).json", refs)
    save_photo(tmp_path / "images/mscoco/images/train2014/COCO_train2014_000000000001.jpg")
    with pytest.raises(InputDataError) as caught:
        read(tmp_path)
    text = str(caught.value)
    assert "29 of 30 pictures are missing" in text
    assert text.count(".jpg") == 10
    assert text.endswith("and 19 more")
    counts = read(tmp_path, skip_missing=True).counts
    assert (counts.pictures, counts.missing) == (1, 29)
    assert "29 pictures missing and left out" in str(counts)


def broken(field, value):
    def change(root):
        path = root / "refcoco" / "refs(unc).p"
        refs = load_plain_pickle(path)
        refs[1][field] = value
        path.write_bytes(pickle.dumps(refs))

    return change


def broken_instances(section, index, field, value):
    def change(root):
        path = root / "refcoco" / "instances.json"
        content = json.loads(path.read_text())
        content[section][index][field] = value
        path.write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken("split", 3), r"refs\(unc\)\.p: ref 1: 'split' must be text, got 3"),
        (broken("ann_id", 999), r"ref 1: 'ann_id' 999 is no annotation of the image 9"),
        (broken("ann_id", 102), r"ref 1: 'ann_id' 102 is no annotation of the image 9"),
        (broken("sentences", []), "ref 1: has no expression"),
        (broken("sentences", [{"raw": "x"}]), "sentence 0: 'sent' must be text, which is missing"),
        (broken_instances("images", 0, "height", 0), r"images\[0\]: height and width must be ≥ 1"),
        (broken_instances("images", 0, "file_name", "../../x"), "must stay below its folder"),
        (broken_instances("images", 1, "id", 9), r"images\[1\]: the id 9 stands twice"),
        (
            broken_instances("annotations", 0, "image_id", 5),
            r"annotations\[0\]: 'image_id' 5 is no image",
        ),
        (
            broken_instances("annotations", 2, "segmentation", [[1, 2]]),
            r"annotations\[2\]: annotation 102: polygon 0",
        ),
    ],
)
def test_broken_records_are_named(root, change, message):
    change(root)
    with pytest.raises(InputDataError, match=message):
        read(root)


def test_an_empty_mask_is_passed_over_and_counted(root):
    broken_instances("annotations", 1, "segmentation", [])(root)
    counts = read(root).counts
    assert (counts.regions, counts.empty) == (1, 1)


def test_files_that_are_missing(root):
    (root / "refcoco" / "instances.json").unlink()
    with pytest.raises(InputDataError, match=r"instances\.json: cannot be read"):
        read(root)
    shutil.rmtree(root / "refcoco")
    with pytest.raises(InputDataError, match=r"refs\(unc\)\.p: cannot be read"):
        read(root)
