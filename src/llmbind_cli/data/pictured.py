"""Gives the records of conversation files their pictures, which may lie in several folders.

LLaVA-Instruct-665k (liuhaotian/LLaVA-Instruct-150K ``llava_v1_5_mix665k.json``) names pictures of
COCO, GQA, OCR-VQA, TextVQA and Visual Genome by paths below one folder, and has records without
any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llmbind_cli.data.masks import read_segmentation
from llmbind_cli.data.pictures import PictureFile, is_there, missing_message, picture_key
from llmbind_cli.data.sample import Dialogue, Sample, SegmentTarget
from llmbind_cli.data.scenes.grounds import is_held_out_photo, list_photos
from llmbind_cli.errors import InputDataError


class PicturedDialogues(Iterator[Dialogue]):
    """Dialogues with the pictures that they name.

    A dialogue without a picture passes as it is. Where pictures are missing, the end of the
    dialogues raises an error that lists them, unless they are to be skipped.

    Attributes:
        missing: Pictures that were not found.
        pictured: Dialogues that name a picture.

    Args:
        name: Data source, for messages.
        dialogues: What a file holds.
        folders: Where pictures are looked for; the first that has one counts.
        skip_missing: Leave out dialogues whose picture is missing.
    """

    def __init__(
        self,
        name: str,
        dialogues: Iterator[Dialogue],
        folders: Sequence[Path],
        *,
        skip_missing: bool = False,
    ) -> None:
        self.missing: list[PictureFile] = []
        self.pictured = 0
        self._name = name
        self._dialogues = dialogues
        self._folders = tuple(folders)
        self._skip_missing = skip_missing

    def __next__(self) -> Dialogue:
        """Return the next dialogue, a :class:`Sample` where it has a picture.

        Raises:
            InputDataError: A record is broken, or at the end, pictures are missing.
        """
        for dialogue in self._dialogues:
            if dialogue.image is None:
                return dialogue
            self.pictured += 1
            picture = self._picture(dialogue.image, dialogue.id)
            if is_there(picture.path):
                return _sample(dialogue, picture)
            self.missing.append(picture)
        if self.missing and not self._skip_missing:
            raise InputDataError(missing_message(self._name, self.missing, self.pictured))
        raise StopIteration

    def _picture(self, written: str, where: str) -> PictureFile:
        """Return the file of a path that a record names."""
        relative = PurePosixPath(written)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise InputDataError(
                f"{self._name}: {where}: 'image' must be a path below the folders of the recipe, "
                f"got {written!r:.80}"
            )
        candidates = [folder / relative for folder in self._folders]
        found = next((path for path in candidates if is_there(path)), candidates[0])
        return PictureFile(found, picture_key(self._name, str(relative)))


_IN_SIGHT = 4
"""One in so many dialogues that speak of no picture has one in sight all the same."""


class StandIns:
    """Photos that stand for pictures which dialogues speak of and which are not there.

    Some dialogues that speak of none see one too, so that a model learns to draw and to talk as it
    does without one. Which dialogues, and which photo stands where, follows from the dialogue's
    id. Photos that are held out stand for none.

    Args:
        name: Data source, for messages.
        folder: Holds the photos.

    Raises:
        InputDataError: It holds none.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._photos = [path for path in list_photos(folder) if not is_held_out_photo(path)]
        if not self._photos:
            raise InputDataError(f"{name}: {folder}: every photo there is held out")

    def __call__(self, dialogue: Dialogue) -> Dialogue:
        """Return a dialogue that sees a picture as a sample, another one as it is."""
        if isinstance(dialogue, Sample):
            return dialogue
        digest = hashlib.blake2b(f"{self._name}\0{dialogue.id}".encode(), digest_size=8).digest()
        chance, which = divmod(int.from_bytes(digest, "big"), len(self._photos))
        if dialogue.image is None and chance % _IN_SIGHT:
            return dialogue
        photo = self._photos[which]
        return _sample(dialogue, PictureFile(photo, picture_key("stand-ins", photo.name)))


def _sample(dialogue: Dialogue, picture: PictureFile) -> Sample:
    masks = dialogue.masks or []
    segments = tuple(
        _target(mask, f"{dialogue.id}: mask {number}") for number, mask in enumerate(masks)
    )
    try:
        return Sample(
            id=dialogue.id,
            turns=dialogue.turns,
            image=dialogue.image,
            masks=dialogue.masks,
            pictures=(picture,),
            segments=segments,
            source_task="refer" if segments else "vqa",
        )
    except ValueError as error:
        raise InputDataError(str(error)) from None


def _target(mask: Any, where: str) -> SegmentTarget:
    """Read one of a record's masks: COCO's RLE, with the words it is tied to where it has some."""
    size = mask.get("size") if isinstance(mask, dict) else None
    if not (
        isinstance(mask, dict)
        and isinstance(size, list)
        and len(size) == 2
        and all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise InputDataError(f'{where}: must be {{"size": [H, W], "counts": …}}, got {mask!r:.60}')
    decoded = read_segmentation(mask, size[0], size[1], where)
    phrase = mask.get("phrase", "")
    if decoded is None or not isinstance(phrase, str):
        raise InputDataError(f"{where}: has no pixels, or its 'phrase' is no text")
    return SegmentTarget(mask=decoded, phrase=phrase)
