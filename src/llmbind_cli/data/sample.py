"""One training dialogue, in the shape that every reader and builder gives."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmbind_cli.data.spellings import SEGMENT
from llmbind_cli.errors import InputDataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmbind_cli.data.masks import MaskSource
    from llmbind_cli.data.pictures import PictureSource

Role = Literal["user", "assistant"]

_SPEAKER: dict[str, str] = {"user": "human", "assistant": "gpt"}

IGNORED = 255
"""Label of pixels that neither loss nor score counts."""

IMAGE_PLACEHOLDER = "<image>"
"""Stands in the first turn of a LLaVA record for the picture attached to it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says.

    Attributes:
        role: ``user`` or ``assistant``.
        text: The words. Task tokens count as such in an assistant's text only; in a user's they
            are plain text.
        complete: False for a reply that was cut: training then leaves its end of turn out.
    """

    role: Role
    text: str
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that a binding model learns from.

    Attributes:
        id: Name of the record.
        turns: User and assistant in alternation, the user first.
        image: Path of the picture attached to the first turn, as written in the file.
        masks: Ground-truth masks of a segmentation dialogue, as written in the file.
    """

    id: str
    turns: list[Turn]
    image: str | None = None
    masks: list[Any] | None = None

    def __post_init__(self) -> None:
        if not self.turns or len(self.turns) % 2:
            raise ValueError(
                f"dialogue {self.id!r}: needs pairs of a user and an assistant turn, "
                f"got {len(self.turns)} turns"
            )
        for index, turn in enumerate(self.turns):
            expected = "assistant" if index % 2 else "user"
            if turn.role != expected:
                raise ValueError(
                    f"dialogue {self.id!r}: turn {index} must be the {expected}'s, "
                    f"got {turn.role!r}"
                )

    def fingerprint(self) -> int:
        """Return 64 bits that follow from the turns' texts alone, the same in every process."""
        digest = hashlib.blake2b(digest_size=8)
        for turn in self.turns:
            text = turn.text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(text))
            digest.update(text)
        return int.from_bytes(digest.digest(), "big")

    def as_record(self) -> dict[str, Any]:
        """Return the dialogue in the LLaVA shape, ready for one JSON line.

        A reply that was cut carries ``"complete": false``, which other readers pass over.
        """
        spoken: list[dict[str, Any]] = [
            {"from": _SPEAKER[turn.role], "value": turn.text}
            | ({} if turn.complete else {"complete": False})
            for turn in self.turns
        ]
        record: dict[str, Any] = {"id": self.id, "conversations": spoken}
        if self.image is not None:
            spoken[0]["value"] = f"{IMAGE_PLACEHOLDER}\n{self.turns[0].text}"
            record["image"] = self.image
        if self.masks is not None:
            record["masks"] = self.masks
        return record


@dataclass(frozen=True, slots=True)
class SegmentTarget:
    """What one segmentation token is to be answered with.

    Attributes:
        mask: The pixels that are meant.
        phrase: The words that the token is tied to ("the dog on the left").
        ignored: Pixels that neither loss nor score counts, as within a crowd that nobody outlined;
            ``None`` where all of them count.
    """

    mask: MaskSource
    phrase: str
    ignored: MaskSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Dialogue):
    """A dialogue about pictures, with a mask for each segmentation token in the replies.

    It holds paths, polygons and runs only; pictures and masks are decoded when they are asked for.
    All pictures belong to the first turn, in order, and ``image`` names the first one. ``H`` and
    ``W`` are those of the first picture, which all masks are of, in the frame the viewer sees.

    Attributes:
        pictures: At least one.
        segments: One for each segmentation token of the assistant's turns, in order; ``K`` of them.
        source_task: What the sample teaches: ``semantic``, ``refer``, ``reason`` or ``vqa``; for
            figures by task.
    """

    pictures: tuple[PictureSource, ...]
    segments: tuple[SegmentTarget, ...] = field(default=())
    source_task: str = "vqa"

    def __post_init__(self) -> None:
        Dialogue.__post_init__(self)
        said = sum(turn.text.count(SEGMENT) for turn in self.turns if turn.role == "assistant")
        if not self.pictures or said != len(self.segments):
            raise ValueError(
                f"sample {self.id!r}: needs a picture and a mask for each of its {said} "
                f"segmentation tokens, got {len(self.pictures)} and {len(self.segments)}"
            )

    def decode_masks(self) -> NDArray[np.bool_]:
        """Decode the masks.

        Returns:
            [K, H, W] bool, in the order of the segmentation tokens; [0, 0, 0] where there is none.

        Raises:
            InputDataError: A mask cannot be decoded, or they are of different sizes.
        """
        return self._stacked([segment.mask.decode() for segment in self.segments])

    def decode_ignored(self) -> NDArray[np.bool_]:
        """Decode the pixels that are left out, for each segmentation token.

        Returns:
            [K, H, W] bool; all false where every pixel counts.

        Raises:
            InputDataError: As for :meth:`decode_masks`.
        """
        left_out: NDArray[np.bool_] = self.decode_labels() == IGNORED
        return left_out

    def decode_labels(self) -> NDArray[np.uint8]:
        """Decode masks and ignored pixels in one: 1 for the mask, 255 for what is left out.

        Returns:
            [K, H, W] uint8, as :func:`llmbind_cli.metrics.iou.ciou_giou` takes targets.

        Raises:
            InputDataError: As for :meth:`decode_masks`.
        """
        import numpy as np

        masks = self.decode_masks()
        labels = masks.astype(np.uint8)
        for number, segment in enumerate(self.segments):
            if segment.ignored is not None:
                left_out = self._stacked([masks[number], segment.ignored.decode()])[1]
                labels[number][left_out] = IGNORED
        return labels

    def _stacked(self, masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        import numpy as np

        if not masks:
            return np.zeros((0, 0, 0), np.bool_)
        sizes = {mask.shape for mask in masks}
        if len(sizes) > 1:
            raise InputDataError(f"{self.id}: its masks have different sizes: {sorted(sizes)}")
        return np.stack(masks)

    def check_size(self, height: int, width: int) -> None:
        """Compare the masks with the decoded picture.

        Args:
            height: H of the first picture.
            width: W of the first picture.

        Raises:
            InputDataError: The masks have another size; names the sample.
        """
        masks = self.decode_masks()
        if len(masks) and masks.shape[1:] != (height, width):
            raise InputDataError(
                f"{self.id}: the masks are {masks.shape[1]} × {masks.shape[2]} px and the picture "
                f"{self.pictures[0].key} is {height} × {width}"
            )
