"""``[sight]``: what the model sees with, and how its masks are trained.

The weights of the losses are those of LLMBind (arXiv 2402.14891, Eq. 7-9) and LISA (arXiv
2308.00692, section 4.1).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from llmbind_cli.recipes.section import FilePath, Section

Family = Literal["clip", "siglip", "sam", "efficientnet-lite0"]
Fit = Literal["crop", "pad", "stretch", "corner"]
Marks = Annotated[tuple[str, str], Strict(False)]


class NetworkSection(Section):
    """``[sight.vision_tower]`` and ``[sight.grounding_encoder]``: a frozen network.

    Attributes:
        family: ``clip``, ``siglip`` or ``efficientnet-lite0`` for the tower; ``sam`` or
            ``efficientnet-lite0`` for the encoder.
        source: Source of the weights, as for ``model.base``.
        sha256: Expected hash of the weights; checked before they are loaded.
        side_px: Side of the square that the network sees.
        fit: How pictures are brought to it: ``crop`` takes the middle, ``pad`` fills up with the
            mean colour, ``stretch`` scales each side, ``corner`` fills up at the right and at the
            bottom. A grounding encoder needs ``corner``.
        layer: Which hidden states of a ViT the LLM gets; -2 is the last but one.
        strides: Which maps of EfficientNet are used, finest first.
        cell_colours: Whether the tokens of EfficientNet as tower tell the mean colours of the
            sixteen parts of their cell as well.
        tuned_from: Stride of the map of EfficientNet from which on the blocks are tuned: a copy of
            the later ones belongs to the projector, which must list things, or to the mask decoder.
        architecture: Fields of the network's configuration in transformers, from which a dry run
            counts where the weights are not cached.
    """

    family: Family
    source: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    side_px: int = Field(ge=1)
    fit: Fit
    layer: int = -2
    strides: list[Literal[4, 8, 16, 32]] = Field(default=[])
    cell_colours: bool = False
    tuned_from: Literal[4, 8, 16] | None = None
    architecture: dict[str, Any] | None = None


class FeatureCacheSection(Section):
    """``[sight.cache]``: keeps what the frozen networks give on the disk.

    Attributes:
        dir: Folder; a relative one starts at the current folder.
        budget_gib: Most room; the least recently used features leave first.
    """

    dir: FilePath
    budget_gib: float = Field(default=20.0, gt=0)


class ObjectTokensSection(Section):
    """``[sight.object_tokens]``: a picture as a list of the things in it.

    Attributes:
        most: Things listed.
        names: Names known.
        colours: Colours known.
        pieces: Most tokens of a name.
    """

    most: int = Field(default=6, ge=1)
    names: int = Field(ge=1)
    colours: int = Field(ge=1)
    pieces: int = Field(default=3, ge=1)


class MaskFilterSection(Section):
    """``[sight.mask_filter]``: masks brought to the edges of their picture.

    Attributes:
        radius: Of a window, in cells of the mask decoder.
        eps: Variance of colours, from 0 to 1, below which a window is smoothed.
    """

    radius: int = Field(default=3, ge=1)
    eps: float = Field(default=1e-5, gt=0)


class MaskDecoderSection(Section):
    """``[sight.mask_decoder]``: the light decoder that goes with EfficientNet.

    Attributes:
        prompt_width: Numbers of a prompt that say what is to be cut out.
        num_heads: Heads of each attention.
        attended_maps: How many of the coarsest maps are attended to.
        neck_layers: Residual blocks before the attention.
        pointer_width: Numbers of a prompt that point at listed things, beside the others.
        pointer_trust: Share of one thing in what is pointed at from which on the list says what to
            cut out, if that one's name is unsure.
        pointer_unnamed: Logits that speak for a listed thing for each nat of the entropy of its
            names, up to one, beside what was learned.
    """

    prompt_width: int | None = None
    num_heads: int | None = None
    attended_maps: int | None = None
    neck_layers: int | None = None
    pointer_width: int | None = None
    pointer_trust: float | None = None
    pointer_unnamed: float | None = None


class SightSection(Section):
    """``[sight]``.

    Attributes:
        vision_tower: Feeds the language model.
        grounding_encoder: Feeds the mask decoder; without it the model answers about pictures and
            cuts nothing out.
        mask_decoder: Settings of the light decoder that goes with EfficientNet.
        mask_filter: Brings masks to the edges of the picture, once they are decoded.
        object_tokens: Lets the projector list the things that it finds instead of giving one token
            a cell.
        image_marks: Two tokens of the base's tokenizer that stand around each picture.
        segment_prompt: How ``llmbind segment`` asks; ``{}`` stands for the instruction.
        mask_weight: λ_mask of Eq. (7).
        bce_weight: Weight of the binary cross-entropy within the mask loss.
        dice_weight: Weight of the Dice loss within it.
        box_weight: Weight of the losses of boxes, which are those around the masks.
        cache: Keeps features on the disk; not kept where it is not given.
    """

    vision_tower: NetworkSection
    grounding_encoder: NetworkSection | None = None
    mask_decoder: MaskDecoderSection = MaskDecoderSection()
    mask_filter: MaskFilterSection | None = None
    object_tokens: ObjectTokensSection | None = None
    image_marks: Marks | None = None
    segment_prompt: str = Field(default="{}", pattern=r"\{\}")
    mask_weight: float = Field(default=1.0, ge=0)
    bce_weight: float = Field(default=2.0, ge=0)
    dice_weight: float = Field(default=0.5, ge=0)
    box_weight: float = Field(default=0.2, ge=0)
    cache: FeatureCacheSection | None = None
