"""Sight: what lies between pictures and the language model, in both directions.

Pictures → vision tower → projector → positions of the LLM; the hidden states of its ``seg`` and
``detect`` tokens → masks and boxes of the picture (LLMBind, arXiv 2402.14891, sections 3.1 and 3.2;
LISA, arXiv 2308.00692). Tower and grounding encoder are frozen, the rest is trained and saved.

Notation: ``B`` pictures, ``K`` cells a picture, ``W`` width of the tower, ``D`` width of the LLM,
``M`` semantic tokens, ``P`` width of the prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from llmbind_cli.errors import ConfigurationError
from llmbind_cli.model.config import SightConfig
from llmbind_cli.model.vision.grounding import EfficientNetGrounding, GroundingEncoder
from llmbind_cli.model.vision.sam_mask_decoder import SamMaskDecoder
from llmbind_cli.model.vision.towers import EfficientNetTower, VisionTower
from llmbind_cli.nn.box_head import BoxHead
from llmbind_cli.nn.frame import Frame
from llmbind_cli.nn.guided_filter import guided_masks
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.nn.object_projector import ObjectProjector
from llmbind_cli.nn.projector import Projector
from llmbind_cli.nn.prompt_projection import PromptProjection
from llmbind_cli.nn.tuned_stage import TunedStage

if TYPE_CHECKING:
    from PIL.Image import Image

SEGMENT = "segment"
DETECT = "detect"


class Sight(nn.Module):
    """The networks of one bundle that see and point.

    Args:
        config: What the bundle says of them.
        tower: The frozen vision tower.
        grounding: The frozen grounding encoder; ``None`` for a bundle that cuts nothing out.
        hidden_size: ``D``.
        tasks: Tasks of the bundle's token table; ``segment`` and ``detect`` have heads here.
        mask_decoder: Decodes the grounding encoder's maps.

    Raises:
        ConfigurationError: There is a grounding encoder without a decoder, or the other way about;
            or the tower's cells cannot be listed as things, or its blocks be tuned, as configured;
            or masks point at a list whose places are those of another square.
    """

    def __init__(
        self,
        config: SightConfig,
        *,
        tower: VisionTower,
        grounding: GroundingEncoder | None,
        hidden_size: int,
        tasks: Sequence[str],
        mask_decoder: SamMaskDecoder | LightMaskDecoder | None,
    ) -> None:
        super().__init__()
        if (grounding is None) != (mask_decoder is None):
            raise ConfigurationError("a mask decoder needs a grounding encoder, and one needs it")
        self.config = config
        self.tower = tower
        self.grounding = grounding
        self.mask_decoder = mask_decoder if SEGMENT in tasks else None
        self.projector = self._projector(hidden_size)
        self.prompt_projection = None
        if self.mask_decoder is not None:
            self.prompt_projection = PromptProjection(
                hidden_size=hidden_size, prompt_width=self.mask_decoder.prompt_width
            )
        self.box_head = BoxHead(hidden_size=hidden_size) if DETECT in tasks else None
        encoder = config.grounding_encoder
        if self.points and encoder is not None and encoder.fit != config.vision_tower.fit:
            raise ConfigurationError(
                "pointer_width needs a vision tower and a grounding encoder of one fit, got "
                f"{config.vision_tower.fit} and {encoder.fit}"
            )

    @property
    def serves(self) -> frozenset[str]:
        """The tasks that it can carry out."""
        heads = {SEGMENT: self.mask_decoder, DETECT: self.box_head}
        return frozenset(task for task, head in heads.items() if head is not None)

    @property
    def num_tokens(self) -> int:
        """Positions of the language model that a picture takes."""
        if isinstance(self.projector, ObjectProjector):
            return self.projector.num_tokens
        return self.tower.num_tokens

    @property
    def device(self) -> torch.device:
        """Where the networks, and so every input, live."""
        return next(self.projector.parameters()).device

    def heads(self) -> dict[str, nn.Parameter]:
        """Return what is trained and saved: name in ``heads.safetensors`` → parameter."""
        parts = {
            "projector": self.projector,
            "prompt_projection": self.prompt_projection,
            "mask_decoder": self.mask_decoder,
            "box_head": self.box_head,
        }
        return {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            if module is not None
            for name, parameter in module.named_parameters()
        }

    def train(self, mode: bool = True) -> Sight:
        """Set the mode of the trained parts; the frozen networks stay in evaluation mode."""
        super().train(mode)
        for frozen in (self.tower, self.grounding):
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    @torch.no_grad()
    def tower_features(self, pictures: Sequence[Image]) -> Tensor:
        """Run the frozen tower.

        Args:
            pictures: ``B`` ≥ 1 pictures, mode ``RGB``.

        Returns:
            Float32, [B, K, W].
        """
        pixels = torch.stack([self.tower.preprocessing(picture) for picture in pictures])
        return self.tower(pixels.to(self.device)).float()

    @torch.no_grad()
    def maps(self, pictures: Sequence[Image]) -> tuple[Tensor, ...]:
        """Run the frozen grounding encoder.

        Args:
            pictures: ``B`` ≥ 1 pictures, mode ``RGB``.

        Returns:
            Maps, finest first, each float32 [B, C, h, w].

        Raises:
            ConfigurationError: The bundle has no grounding encoder.
        """
        grounding = self._grounding()
        pixels = torch.stack([grounding.preprocessing(picture) for picture in pictures])
        return grounding(pixels.to(self.device))

    @torch.no_grad()
    def look(self, pictures: Sequence[Image]) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Run the frozen tower, and take the grounding encoder's maps where they cost nothing.

        Args:
            pictures: ``B`` ≥ 1 pictures, mode ``RGB``.

        Returns:
            What :meth:`tower_features` gives; and what :meth:`maps` gives where tower and encoder
            are one network over the same square, which then runs once, else ``None``.
        """
        tower, grounding = self.tower, self.grounding
        if not (
            isinstance(tower, EfficientNetTower)
            and isinstance(grounding, EfficientNetGrounding)
            and tower.network is grounding.network
            and tower.preprocessing == grounding.preprocessing
        ):
            return self.tower_features(pictures), None
        pixels = torch.stack([tower.preprocessing(picture) for picture in pictures])
        pixels = pixels.to(self.device)
        reads_to = max(tower.reads_to, grounding.reads_to)
        seen = tower.network.feature_maps(pixels, reads_to)
        return tower.tokens(seen, pixels).float(), grounding.chosen(seen)

    def frame(self, picture: Image) -> Frame:
        """Return where a picture lies in the square that its masks are decoded over."""
        return self._grounding().preprocessing.frame(picture)

    def embeddings(self, features: Tensor) -> Tensor:
        """Project features [B, K, W] to positions of the LLM, float32 [B, num_tokens, D]."""
        projected: Tensor = self.projector(features.float())
        return projected

    @torch.no_grad()
    def things(self, features: Tensor) -> ListedThings | None:
        """List what features [B, K, W] show, for a mask decoder that points at it; or ``None``."""
        if not self.points:
            return None
        return self.read(features)[1]

    @property
    def points(self) -> bool:
        """Whether the mask decoder points at things in the projector's list."""
        return isinstance(self.mask_decoder, LightMaskDecoder) and (
            self.mask_decoder.pointer is not None
        )

    def read(self, features: Tensor) -> tuple[Tensor, ListedThings | None]:
        """Project features once for both: return :meth:`embeddings`, and :meth:`things`."""
        projector = self.projector
        if not self.points or not isinstance(projector, ObjectProjector):
            return self.embeddings(features), None
        found = projector.found(features.float())
        return projector.listed(found), projector.things(found)

    def mask_logits(
        self,
        maps: Sequence[Tensor],
        states: Tensor,
        image_of: Tensor,
        things: ListedThings | None = None,
    ) -> Tensor:
        """Decode one mask for each state.

        Args:
            maps: Of :meth:`maps`.
            states: Hidden states of ``seg`` tokens, [M, D].
            image_of: Which of the pictures each one is about, int64 [M].
            things: What :meth:`things` lists of the pictures.

        Returns:
            Logits over the square of the grounding encoder, [M, h, w].

        Raises:
            ConfigurationError: The bundle does not cut out.
        """
        if self.mask_decoder is None or self.prompt_projection is None:
            raise ConfigurationError("this bundle has no mask decoder")
        prompts = self.prompt_projection(states.float())
        logits: Tensor = (
            self.mask_decoder(maps, prompts, image_of, things)
            if isinstance(self.mask_decoder, LightMaskDecoder)
            else self.mask_decoder(maps, prompts, image_of)
        )
        return logits

    def masks(self, picture: Image, mask_logits: Tensor) -> Tensor:
        """Turn mask logits over the square [M, h, w] into masks of their picture, bool [M, H, W].

        Where the bundle says nothing else, a mask covers the pixels whose logit is above 0.
        """
        frame, smoothing = self.frame(picture), self.config.mask_filter
        if smoothing is None:
            return frame.masks(mask_logits)
        coarse = frame.cut(mask_logits).sigmoid()
        colours = torch.from_numpy(np.array(picture)).to(coarse.device).movedim(2, 0).contiguous()
        return guided_masks(coarse, colours, radius=smoothing.radius, eps=smoothing.eps)

    def boxes(self, states: Tensor) -> Tensor:
        """Return one box for each state [M, D]: (x1, y1, x2, y2) over the picture's sides, [M, 4].

        Raises:
            ConfigurationError: The bundle does not detect.
        """
        if self.box_head is None:
            raise ConfigurationError("this bundle has no box head")
        boxes: Tensor = self.box_head(states.float())
        return boxes

    @torch.no_grad()
    def load_heads(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy heads, dtypes kept; those that are not among the tensors stay as they are."""
        for name, parameter in self.heads().items():
            if name in tensors:
                parameter.copy_(tensors[name])

    def _projector(self, hidden_size: int) -> Projector | ObjectProjector:
        """Make the projector.

        Raises:
            ConfigurationError: It is to list more things than the tower has cells, or the cells
                are no square grid, or blocks are to be tuned that cannot be.
        """
        config, cells = self.config, self.tower.num_tokens
        width, stage = self.tower.width, self._stage()
        objects = config.object_tokens
        if objects is None:
            if stage is not None:
                raise ConfigurationError("tuned_from needs object_tokens, whose projector has them")
            return Projector(
                width=width, hidden_size=hidden_size, num_layers=config.projector_layers
            )
        if objects.most > cells or math.isqrt(cells) ** 2 != cells:
            raise ConfigurationError(
                f"object_tokens: {objects.most} things cannot be found in the {cells} cells of the "
                "tower, which must be a square grid of at least as many"
            )
        settings = dataclasses.asdict(objects) | {"width": stage.width if stage else width}
        return ObjectProjector(hidden_size=hidden_size, stage=stage, **settings)

    def _stage(self) -> TunedStage | None:
        """Make the tuned blocks of the tower, if there are to be some."""
        entry, encoder, tower = self.config.vision_tower, self.config.grounding_encoder, self.tower
        if (
            encoder is not None
            and encoder.tuned_from is not None
            and not isinstance(self.grounding, EfficientNetGrounding)
        ):
            raise ConfigurationError(
                f"tuned_from is for EfficientNet-lite0, not for {encoder.family}"
            )
        if entry.tuned_from is None:
            return None
        if not isinstance(tower, EfficientNetTower):
            raise ConfigurationError(
                f"tuned_from is for EfficientNet-lite0, not for {entry.family}"
            )
        return TunedStage(stride=entry.tuned_from, beside=tower.num_beside)

    def _grounding(self) -> GroundingEncoder:
        if self.grounding is None:
            raise ConfigurationError("this bundle has no grounding encoder")
        return self.grounding
