"""``[[data]]`` and ``[[evaluation]]`` tables of pictures with masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmbind_cli.recipes.section import FilePath, Section

Part = Literal["semantic", "refer", "reason", "vqa", "interactive"]
"""What a source teaches: three parts of segmentation, questions about pictures, and dialogues that
call generators."""

Share = Annotated[float, Field(ge=0)]
QuestionName = Literal[
    "refer", "spatial", "reason", "group", "absent",
    "presence", "count", "colour", "name", "relation", "describe",
]  # fmt: skip


class PictureSource(Section):
    """What all tables of pictures have.

    Attributes:
        name: Name in logs and in the run manifest.
        weight: Share of the epoch, relative to the other sources'; give it to all or to none.
        part: What it counts as where no source has a weight; see :mod:`llmbind_cli.recipes.shares`.
        seed: Seed of the wordings, apart from that of the training.
    """

    name: str = Field(min_length=1)
    weight: float | None = Field(default=None, gt=0)
    part: Part | None = None
    seed: int = Field(default=0, ge=0)


class AnnotatedSource(PictureSource):
    """What the tables of data sets on the disk have.

    Attributes:
        expressions: Most masks in one dialogue.
        plain: Share of the questions that words alone answer, in [0, 1).
        tied: Replies repeat what is marked right before its token, but for whole sentences.
        pictures: Take this many pictures, the same ones each time; all where it is not given.
        skip_missing: Leave out and count what speaks of pictures that are missing, instead of
            refusing to start.
    """

    expressions: int = Field(default=3, ge=1)
    plain: float = Field(default=0.25, ge=0, lt=1)
    tied: bool = False
    pictures: int | None = Field(default=None, ge=1)
    skip_missing: bool = False


class ReferSource(AnnotatedSource):
    """Kind ``refer``: refCOCO, refCOCO+, refCOCOg and refCLEF.

    Attributes:
        kind: ``refer``.
        root: Folder that holds ``refcoco/``, ``images/`` and so on.
        dataset: Which of them.
        split: ``train``, ``val``, ``test``, ``testA``, ``testB`` or ``testC``.
        split_by: Who split it; ``umd`` for refCOCOg and ``unc`` for the others by default.
        photos: Folder of the photos, where it is not the usual one below ``root``.
    """

    kind: Literal["refer"]
    root: FilePath
    dataset: Literal["refcoco", "refcoco+", "refcocog", "refclef"]
    split: Literal["train", "val", "test", "testA", "testB", "testC"] = "train"
    split_by: Literal["unc", "umd", "google", "berkeley"] | None = None
    photos: FilePath | None = None


class ReasonSegSource(AnnotatedSource):
    """Kind ``reason_seg``: ReasonSeg.

    Attributes:
        kind: ``reason_seg``.
        root: Folder with the folders of the splits.
        splits: Which of them.
        explanations: Read ``explanatory/train.json`` where it is there.
    """

    kind: Literal["reason_seg"]
    root: FilePath
    splits: list[str] = Field(default=["train"], min_length=1)
    explanations: bool = True


class LabelMapSource(AnnotatedSource):
    """Kind ``label_maps``: ADE20K and COCO-Stuff.

    Attributes:
        kind: ``label_maps``.
        root: Folder with ``ade20k/``, or with ``cocostuff/`` and ``coco/``.
        dataset: Which of them.
        split: Name of its folder, such as ``training`` or ``train2017``.
        classes: List of the classes, where it is not beside the data.
    """

    kind: Literal["label_maps"]
    root: FilePath
    dataset: Literal["ade20k", "cocostuff"]
    split: str = Field(min_length=1)
    classes: FilePath | None = None


class PartSource(AnnotatedSource):
    """Kind ``parts``: PACO-LVIS, PartImageNet and PASCAL-Part.

    Attributes:
        kind: ``parts``.
        root: Folder with ``vlpart/``, and with ``coco/`` for PACO-LVIS.
        dataset: Which of them.
        split: ``train`` or ``val``.
    """

    kind: Literal["parts"]
    root: FilePath
    dataset: Literal["paco_lvis", "part_imagenet", "pascal_part"]
    split: Literal["train", "val", "test"] = "train"


class CocoSource(AnnotatedSource):
    """Kind ``coco``: an ``instances`` file of COCO.

    Attributes:
        kind: ``coco``.
        annotations: The file.
        photos: Folder that its file names start at.
        places: Ask for single things by their place as well, and count them.
    """

    kind: Literal["coco"]
    annotations: FilePath
    photos: FilePath
    places: bool = False


class Coco128Source(AnnotatedSource):
    """Kind ``coco128``: 128 photos of COCO, of which 32 are always held out.

    Attributes:
        kind: ``coco128``.
        root: Folder with ``annotations/`` and ``train2017/``.
        split: Which part.
    """

    kind: Literal["coco128"]
    root: FilePath
    split: Literal["train", "held_out"] = "train"


class SceneSource(PictureSource):
    """Kind ``scenes``: scenes that llmbind draws from sprites, with questions about them.

    Attributes:
        kind: ``scenes``.
        sprites: Sheet that ``tools/embedded_generator/render.py`` writes.
        count: Number of samples, one scene each.
        size_px: Width and height of the pictures.
        split: ``train``; ``held_out_scenes`` with pairs of things that training never sees
            together; ``held_out_things`` with things that it never sees.
        photos: Folder of photos that stand behind some scenes.
        grounds: Shares of what lies behind the things; the usual ones if empty.
        questions: Shares of what is asked; the usual ones if empty.
        turns: Most questions about one scene.
        tied: Replies repeat what is marked right before its token.
        near: Share of the questions whether something absent is there that name a thing of a kind
            with one that is.
    """

    kind: Literal["scenes"]
    sprites: FilePath
    count: int = Field(ge=1)
    size_px: int = Field(default=224, ge=32, le=1024)
    split: Literal["train", "held_out_scenes", "held_out_things"] = "train"
    photos: FilePath | None = None
    grounds: dict[Literal["plain", "textured", "photo"], Share] = Field(default={})
    questions: dict[QuestionName, Share] = Field(default={})
    turns: int = Field(default=3, ge=1)
    tied: bool = False
    near: float = Field(default=0.0, ge=0, le=1)


AnnotatedTable = (
    ReferSource | ReasonSegSource | LabelMapSource | PartSource | CocoSource | Coco128Source
)
"""Any table of a data set on the disk."""

MaskedSource = AnnotatedTable | SceneSource
"""Any table of pictures with masks."""

MASKED_KINDS: dict[str, type[PictureSource]] = {
    "refer": ReferSource,
    "reason_seg": ReasonSegSource,
    "label_maps": LabelMapSource,
    "parts": PartSource,
    "coco": CocoSource,
    "coco128": Coco128Source,
    "scenes": SceneSource,
}
"""Value of ``kind`` → table."""
