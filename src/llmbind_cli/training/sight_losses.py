"""The losses of masks and boxes of one batch (LLMBind Eq. 8; LISA, arXiv 2308.00692, Eq. 3-4).

Notation: ``B`` dialogues, ``T`` ids, ``D`` width of the LLM, ``M`` masks over squares of ``S × S``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from llmbind_cli.data.batches import Batch, SeenBatch
from llmbind_cli.data.sample import IGNORED
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.box_head import box_giou_loss, box_l1_loss
from llmbind_cli.nn.list_pointer import ListedThings
from llmbind_cli.nn.losses import mask_bce_loss, mask_dice_loss

_L1, _GIOU = 5.0, 2.0
"""Weights of DETR's two losses of boxes (arXiv 2005.12872, appendix A.4)."""


@dataclass(frozen=True, kw_only=True)
class MaskWeights:
    """How much each loss counts.

    Attributes:
        mask: λ_mask of LLMBind Eq. (7).
        bce: Of the binary cross-entropy within the mask loss.
        dice: Of the Dice loss within it.
        box: Of the losses of boxes.
    """

    mask: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    box: float = 0.2


@dataclass(frozen=True, kw_only=True)
class SightLosses:
    """The losses of a batch.

    Attributes:
        mask: Scalar with gradient; ``None`` where the batch has no mask.
        box: Scalar with gradient; ``None`` where there is no mask or no box head.
    """

    mask: Tensor | None = None
    box: Tensor | None = None

    def total(self, weights: MaskWeights) -> Tensor | float:
        """Return the weighted sum."""
        mask = 0.0 if self.mask is None else weights.mask * self.mask
        box = 0.0 if self.box is None else weights.box * self.box
        return mask + box


def listed_things(sight: Sight, seen: SeenBatch) -> ListedThings | None:
    """Return what the decoder points at in the pictures with masks; ``None`` if at nothing."""
    if not sight.points or seen.things is not None:
        return seen.things
    return sight.things(seen.features[seen.pictured])


def mask_loss(logits: Tensor, labels: Tensor, weights: MaskWeights) -> Tensor:
    """Compare decoded masks with those that are wanted (LLMBind Eq. 8).

    Args:
        logits: [M, h, w].
        labels: 1, 0 or 255, [M, S, S].
        weights: Of the two losses.
    """
    raised = functional.interpolate(
        logits[:, None].float(), labels.shape[-2:], mode="bilinear", align_corners=False
    )[:, 0]  # [M, S, S]
    target, counted = labels == 1, labels != IGNORED
    bce = mask_bce_loss(raised, target, counted=counted)
    return weights.bce * bce + weights.dice * mask_dice_loss(raised, target, counted=counted)


def sight_losses(
    sight: Sight, batch: Batch, hidden_states: Tensor, weights: MaskWeights
) -> SightLosses:
    """Compare the masks that the states of ``seg`` tokens give with those that are wanted.

    All masks of the batch go through the decoder together.

    Args:
        sight: The heads.
        batch: What was read.
        hidden_states: Last hidden states of the LLM, [B, T, D].
        weights: Of the two mask losses.
    """
    seen = batch.seen
    if seen is None or not len(seen.places):
        return SightLosses()
    # The state at the id before the token is the one that predicts it, as in decoding.
    states = hidden_states[seen.places[:, 0], seen.places[:, 1]]  # [M, D]
    things = listed_things(sight, seen)
    logits = sight.mask_logits(seen.maps, states, seen.image_of, things)  # [M, h, w]
    mask = mask_loss(logits, seen.labels, weights)
    if sight.box_head is None:
        return SightLosses(mask=mask)
    has_extent = (seen.boxes[:, 2:] > seen.boxes[:, :2]).all(1)
    predicted, wanted = sight.boxes(states)[has_extent], seen.boxes[has_extent]
    box = _L1 * box_l1_loss(predicted, wanted) + _GIOU * box_giou_loss(predicted, wanted)
    return SightLosses(mask=mask, box=box)
