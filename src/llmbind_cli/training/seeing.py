"""Samples with pictures → batches with what the frozen networks see of them, and masks to learn.

Everything a batch needs per pixel is made here, once for each picture: the objective then works on
whole tensors. Masks are learned in the grounding encoder's own square; what lies in its padding, or
carries the label 255, does not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmbind_cli.data.batches import Batch, SeenBatch, collate
from llmbind_cli.data.encode import EncodedSample
from llmbind_cli.data.sample import IGNORED, Sample
from llmbind_cli.errors import InputDataError
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.frame import Frame
from llmbind_cli.training.feature_cache import FeatureCache

if TYPE_CHECKING:
    from llmbind_cli.data.pictures import PictureSource

_HALF = 128


class SeeingCollator:
    """Makes batches for a model that sees.

    Args:
        sight: Its frozen networks.
        cache: Keeps what they give; ``None`` runs them each time.
    """

    def __init__(self, sight: Sight, *, cache: FeatureCache | None = None) -> None:
        self._sight = sight
        self._cache = cache

    def __call__(self, samples: Sequence[EncodedSample]) -> Batch:
        """Pad the ids of samples, and look at their pictures.

        Raises:
            InputDataError: A picture or mask cannot be read, or the two differ in size.
        """
        batch = collate(samples)
        pictured = [(row, s.sample, s) for row, s in enumerate(samples) if s.sample is not None]
        if not pictured:
            return batch
        features: list[Tensor] = []
        grounded: list[tuple[Tensor, ...]] = []
        image_of: list[int] = []
        first: list[int] = []
        places: list[tuple[int, int]] = []
        targets: list[MaskTargets] = []
        phrases: list[str] = []
        for row, sample, encoded in pictured:
            start = len(features)
            features += self._features(sample)
            if not encoded.pointing:
                continue
            first.append(start)
            picture = sample.pictures[0]
            targets.append(mask_targets(sample, self._sight.frame(picture.load())))
            image_of += [len(grounded)] * len(encoded.pointing)
            grounded.append(self._maps(picture))
            places += [(row, position - 1) for position in encoded.pointing]
            phrases += [segment.phrase for segment in sample.segments]
        return dataclasses.replace(
            batch,
            seen=SeenBatch(
                features=torch.stack(features),
                maps=tuple(torch.stack(scale) for scale in zip(*grounded, strict=True)),
                pictured=torch.tensor(first, dtype=torch.long),
                image_of=torch.tensor(image_of, dtype=torch.long),
                places=torch.tensor(places, dtype=torch.long).reshape(-1, 2),
                labels=_joined([target.labels for target in targets], self._side()),
                boxes=torch.cat([t.boxes for t in targets]) if targets else torch.zeros(0, 4),
                phrases=tuple(phrases),
            ),
        )

    def _side(self) -> int:
        grounding = self._sight.grounding
        return 0 if grounding is None else grounding.preprocessing.side_px

    def _features(self, sample: Sample) -> list[Tensor]:
        """Return the tower's features of a sample's pictures, each [K, W] on the CPU."""
        pictures = sample.pictures
        if self._cache is None:
            return list(self._sight.tower_features([p.load() for p in pictures]).cpu())
        return [
            self._cache.get("tower", picture.sha256(), partial(self._tower_of, picture))[0]
            for picture in pictures
        ]

    def _tower_of(self, picture: PictureSource) -> tuple[Tensor, ...]:
        return tuple(self._sight.tower_features([picture.load()]).cpu())

    def _maps(self, picture: PictureSource) -> tuple[Tensor, ...]:
        """Return the grounding encoder's maps of a picture, each [C, h, w] on the CPU."""
        if self._cache is None:
            return self._maps_of(picture)
        return self._cache.get("grounding", picture.sha256(), partial(self._maps_of, picture))

    def _maps_of(self, picture: PictureSource) -> tuple[Tensor, ...]:
        return tuple(one[0].cpu() for one in self._sight.maps([picture.load()]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskTargets:
    """The masks of one picture, ready to be compared.

    Attributes:
        labels: uint8 [M, S, S], 1, 0 or 255.
        boxes: Float32 [M, 4], around each mask over the sides of the picture; a mask without any
            pixel has a box without any extent.
    """

    labels: Tensor
    boxes: Tensor


def mask_targets(sample: Sample, frame: Frame) -> MaskTargets:
    """Bring a sample's masks into the square of the grounding encoder.

    Each is scaled with antialiasing and counts where at least half of a pixel is covered.

    Args:
        sample: With at least one mask.
        frame: Of its first picture.

    Raises:
        InputDataError: The masks have another size than the picture.
    """
    labels = sample.decode_labels()  # [M, H, W]
    if labels.shape[1:] != (frame.height, frame.width):
        raise InputDataError(
            f"{sample.id}: the masks are {labels.shape[1]} × {labels.shape[2]} px and the picture "
            f"{sample.pictures[0].key} is {frame.height} × {frame.width}"
        )
    side = frame.side_px
    width, height = frame.content
    square = np.full((len(labels), side, side), IGNORED, np.uint8)
    for number, label in enumerate(labels):
        scaled = _scaled(label == 1, (width, height)).astype(np.uint8)
        left_out = label == IGNORED
        if left_out.any():
            scaled[_scaled(left_out, (width, height))] = IGNORED
        square[number, :height, :width] = scaled
    boxes = [box_around(label == 1) for label in labels]
    return MaskTargets(labels=torch.from_numpy(square), boxes=torch.tensor(boxes))


def box_around(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return (x1, y1, x2, y2) around a mask [H, W], over its width and height in [0, 1]."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _scaled(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    from PIL import Image

    if mask.shape == size[::-1]:
        return mask
    picture = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    scaled: NDArray[np.bool_] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) >= _HALF
    return scaled


def _joined(labels: Sequence[Tensor], side: int) -> Tensor:
    return torch.cat(list(labels)) if labels else torch.zeros(0, side, side, dtype=torch.uint8)
