"""Masks of answers that are given: what LISA and GLaMM report, beside masks of answers of its own.

The right answer with its ``seg`` tokens is put into the model's mouth, and the masks are decoded
from the states that predict those tokens. Such a score does not ask whether the model would have
said so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmbind_cli.data.encode import encode_dialogue
from llmbind_cli.data.sample import Sample
from llmbind_cli.errors import UnavailableError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.prompt_reading import number_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@torch.no_grad()
def forced_states(model: BoundModel, sample: Sample) -> Tensor:
    """Return the states that predict the segmentation tokens of a sample's own answers.

    Args:
        model: A model that sees.
        sample: A dialogue about pictures.

    Returns:
        [K, D], in the order of the tokens.

    Raises:
        UnavailableError: The model reads words only.
        InputDataError: A picture cannot be read.
    """
    memory = model.pictures
    if memory is None:
        raise UnavailableError(f"the bundle {model.config.name} reads words only")
    encoded = encode_dialogue(
        sample, model.tokenizer, model.token_table, decision_weight=1.0, slot=model.image_slot
    )
    seen = memory.embeddings([picture.load() for picture in sample.pictures])
    (ids,), table = number_images([encoded.ids], [seen])
    embedded = model.embed(torch.tensor([ids], device=model.device), table)
    states: Tensor = model.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
    return states[[position - 1 for position in encoded.pointing]]


@torch.no_grad()
def forced_masks(model: BoundModel, sample: Sample) -> NDArray[np.bool_]:
    """Decode the masks of a sample's own answers.

    Args:
        model: A model that cuts out.
        sample: With at least one mask.

    Returns:
        [K, H, W] bool in the frame of the first picture, in the order of the tokens.

    Raises:
        UnavailableError: The model cuts nothing out.
        InputDataError: A picture cannot be read.
    """
    sight, memory = model.sight, model.pictures
    if sight is None or memory is None or "segment" not in sight.serves:
        raise UnavailableError(f"the bundle {model.config.name} has no mask decoder")
    states = forced_states(model, sample)
    picture = sample.pictures[0].load()
    image_of = torch.zeros(len(states), dtype=torch.long, device=states.device)
    logits = sight.mask_logits(memory.maps(picture), states, image_of)
    masks: NDArray[np.bool_] = sight.frame(picture).masks(logits).cpu().numpy()
    return masks
