"""Masks and boxes as files: what a ``seg`` or ``detect`` token asks for, in the viewer's frame.

The maker takes the place of a generator: its requests carry the hidden state of the token that asks
(LLMBind, arXiv 2402.14891, section 3.2). All prompts about one picture are decoded in one call.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmbind_cli.errors import InputDataError, UnavailableError
from llmbind_cli.generators.base import (
    GeneratedArtifact,
    GenerationOutcome,
    Generator,
    GeneratorRequest,
)
from llmbind_cli.inference.dispatch import SIGHT_TASKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from llmbind_cli.model.bound_model import BoundModel

FORMATS = ("png", "rle")
OVERLAY = "overlay"

_BATCH_SIZE = 32
_TINT = (255, 64, 64)
_STRENGTH = 0.5
_LINE_PX = 2


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """How masks are written.

    Attributes:
        format: ``png`` (8-bit grey, 255 where the mask is) or ``rle`` (COCO's object as JSON).
        overlay: Write the picture with the mask or box over it as well.
    """

    format: str = "png"
    overlay: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")


class Makers(Protocol):
    """Where the makers of tasks come from; what :class:`WithMasks` adds two to."""

    def check(self, modality: str) -> str:
        """Return where the maker of a task comes from, or raise; loads nothing."""

    def load(self, modality: str) -> Generator:
        """Return the maker of a task, loaded at most once."""


class WithMasks:
    """Generators, and the makers of masks and boxes beside them.

    Args:
        generators: Of all other tasks.
        model: Gives the model whose sight is asked; loaded when first needed.
        settings: How masks are written.
    """

    def __init__(
        self, generators: Makers, model: Callable[[], BoundModel], settings: MaskSettings
    ) -> None:
        self._generators = generators
        self._model = model
        self._settings = settings

    def check(self, modality: str) -> str:
        """Say where the maker of a task comes from.

        Raises:
            UnavailableError: The bundle has no head for it.
            LlmbindError: As the generators say.
        """
        if modality not in SIGHT_TASKS:
            return self._generators.check(modality)
        model = self._model()
        if model.sight is None or modality not in model.sight.serves:
            raise UnavailableError(
                f"the bundle {model.config.name} has no {_HEADS[modality]}, so it cannot "
                f"{modality}; name another one with --model"
            )
        return model.name

    def load(self, modality: str) -> Generator:
        """Return the maker of a task; errors as :meth:`check`."""
        if modality not in SIGHT_TASKS:
            return self._generators.load(modality)
        self.check(modality)
        return MaskMaker(self._model(), modality, self._settings)


_HEADS = {"segment": "mask decoder", "detect": "box head"}


class MaskMaker:
    """Turns the hidden states of one task's tokens into files.

    Args:
        model: A model whose sight serves the task.
        task: ``segment`` or ``detect``.
        settings: How masks are written.
    """

    def __init__(self, model: BoundModel, task: str, settings: MaskSettings) -> None:
        self._model = model
        self._settings = settings
        self.modality = task
        self.name = model.name
        self.fingerprint = model.fingerprint
        self.batch_size = _BATCH_SIZE

    def generate(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Point at what each request asks for.

        Returns:
            One outcome each, in order: a mask in the frame of its picture, or a box in its pixels.
        """
        from llmbind_cli.model.vision.picture_memory import picture_digest

        outcomes: dict[int, GenerationOutcome] = {}
        together: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            if request.image is None or request.hidden_state is None:
                outcomes[number] = InputDataError(
                    "a mask needs a picture and the hidden state of the token that asks for it"
                )
            else:
                together.setdefault(picture_digest(request.image), []).append(number)
        for numbers in together.values():
            asked = [requests[number] for number in numbers]
            made = self._masks(asked) if self.modality == "segment" else self._boxes(asked)
            outcomes |= dict(zip(numbers, made, strict=True))
        return [outcomes[number] for number in range(len(requests))]

    def _masks(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        """Decode the masks of requests about one picture."""
        import torch

        picture, sight, memory = requests[0].image, self._model.sight, self._model.pictures
        if picture is None or sight is None or memory is None:
            raise ValueError("masks need a picture and a model that sees")
        states = self._states(requests)
        with torch.no_grad():
            image_of = torch.zeros(len(states), dtype=torch.long, device=states.device)
            maps, things = memory.mask_inputs(picture)
            logits = sight.mask_logits(maps, states, image_of, things)
            masks = sight.masks(picture, logits).cpu().numpy()
        return [self._mask_file(r, mask) for r, mask in zip(requests, masks, strict=True)]

    def _boxes(self, requests: Sequence[GeneratorRequest]) -> list[GenerationOutcome]:
        import numpy as np
        import torch

        picture, sight = requests[0].image, self._model.sight
        if picture is None or sight is None:
            raise ValueError("boxes need a picture and a model that sees")
        size = np.tile(np.asarray(picture.size, np.float64), 2)
        with torch.no_grad():
            boxes = sight.boxes(self._states(requests)).clamp(0, 1).cpu().numpy() * size
        return [self._box_file(r, box.tolist()) for r, box in zip(requests, boxes, strict=True)]

    def _states(self, requests: Sequence[GeneratorRequest]) -> Any:
        import numpy as np
        import torch

        states = np.stack([r.hidden_state for r in requests if r.hidden_state is not None])
        return torch.from_numpy(states).to(self._model.device)

    def _mask_file(self, request: GeneratorRequest, mask: NDArray[np.bool_]) -> GeneratedArtifact:
        companions: tuple[GeneratedArtifact, ...] = ()
        if self._settings.overlay and request.image is not None:
            companions = (_overlay(tinted(request.image, mask)),)
        if self._settings.format == "png":
            payload = mask_png(mask, phrase=request.prompt, model=self.name)
            return GeneratedArtifact(
                payload=payload, media_type="image/png", suffix=".png", companions=companions
            )
        from llmbind_cli.data.rle import coco_rle

        fields = {"phrase": request.prompt, "area": int(mask.sum()), "model": self.name}
        return _json_file(coco_rle(mask) | fields, companions)

    def _box_file(self, request: GeneratorRequest, box: list[float]) -> GeneratedArtifact:
        companions: tuple[GeneratedArtifact, ...] = ()
        width, height = request.image.size if request.image is not None else (0, 0)
        if self._settings.overlay and request.image is not None:
            companions = (_overlay(boxed(request.image, box)),)
        fields = {
            "box": [round(value, 2) for value in box],
            "size": [height, width],
            "phrase": request.prompt,
            "model": self.name,
        }
        return _json_file(fields, companions)


def mask_png(mask: NDArray[np.bool_], *, phrase: str, model: str) -> bytes:
    """Encode a mask as an 8-bit grey PNG: 255 where it is, else 0.

    Args:
        mask: [H, W].
        phrase: What it is of, for a text chunk.
        model: What made it, for a text chunk.
    """
    import numpy as np
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for key, value in (("phrase", phrase), ("model", model)):
        # NUL ends a chunk's text, and a lone surrogate cannot be written.
        words = value.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
        chunks.add_itxt(key, words)
    stream = io.BytesIO()
    levels = mask.astype(np.uint8) * np.uint8(255)
    Image.fromarray(levels).save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def tinted(picture: Image, mask: NDArray[np.bool_]) -> Image:
    """Return a picture with a mask laid over it in red, and its edge drawn.

    Args:
        picture: Mode ``RGB``.
        mask: [H, W] of its size.
    """
    import numpy as np
    from PIL import Image

    levels = np.array(picture, np.float32)
    levels[mask] = (1 - _STRENGTH) * levels[mask] + _STRENGTH * np.array(_TINT, np.float32)
    inner = np.pad(mask, 1)
    for axis in (0, 1):
        for step in (-1, 1):
            inner = inner & np.roll(inner, step, axis)
    levels[mask & ~inner[1:-1, 1:-1]] = _TINT
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def boxed(picture: Image, box: Sequence[float]) -> Image:
    """Return a picture with a rectangle drawn into it; ``box`` is (x1, y1, x2, y2) in pixels."""
    from PIL import ImageDraw

    drawn = picture.copy()
    x1, y1, x2, y2 = box
    corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    ImageDraw.Draw(drawn).rectangle(corners, outline=_TINT, width=_LINE_PX)
    return drawn


def _overlay(picture: Image) -> GeneratedArtifact:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return GeneratedArtifact(
        payload=stream.getvalue(), media_type="image/png", suffix=".png", label=OVERLAY
    )


def _json_file(
    fields: dict[str, Any], companions: tuple[GeneratedArtifact, ...]
) -> GeneratedArtifact:
    text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
    return GeneratedArtifact(
        payload=text + b"\n",
        media_type="application/json",
        suffix=".json",
        companions=companions,
    )
