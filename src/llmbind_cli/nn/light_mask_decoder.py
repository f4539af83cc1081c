"""A mask decoder for the feature maps of a small convolutional network.

It takes what the decoder of Segment Anything takes (arXiv 2304.02643, section 3 and appendix A): an
image's features and one sparse prompt a mask; and it gives what that one gives, logits over the
encoder's square. Prompt and image attend to each other in both directions, then the image is scaled
up and multiplied with a vector made from the mask token. What differs: finer maps of the encoder
join on the way up, as in a feature pyramid (arXiv 1612.03144), since a light encoder's coarse map
says little about edges; and the map that is attended to may first pass through some residual blocks
(arXiv 2201.03545), once an image, since nothing else here makes more of a light encoder's features
than a linear map of them. The coarsest map may be made here, by the encoder's last blocks, tuned.
Where the vision tower's projector lists things, a part of the prompt may point at them.

Notation: ``G`` images, ``M`` masks, ``P`` width of the prompt, ``C`` channels of a map, ``h × w``
places of the map that is attended to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.nn.efficientnet_lite import LastBlocks
from llmbind_cli.nn.list_pointer import SURENESS, ListedThings, ListPointer, heat
from llmbind_cli.nn.neck import Lateral, NeckBlock

_LAYERS = 2
_MLP_RATIO = 4
_LISTED = 0.75
"""How much of a prompt what is listed makes up, where the pointer means what has no sure name."""

_NAMED = 0.98
"""Share of its likeliest name from which on a thing's name is sure."""


class LightMaskDecoder(nn.Module):
    """Feature maps and prompts → mask logits.

    Args:
        channels: Channels of the maps, finest first; each map has half the side of the one before.
        prompt_width: ``P``, a multiple of 4 · ``num_heads``.
        num_heads: Heads of each attention.
        attended_maps: How many of the last maps are attended to, added up at the side of the finest
            of them; the others join on the way up.
        neck_layers: Residual blocks between those maps and the attention.
        tuned_from: Stride of the last map that comes in, where the last of ``channels`` is made of
            it by the blocks of EfficientNet-lite0 that come after it.
        pointer_width: Numbers of the prompt that point at listed things, after the others; 0 for
            none.
        told_width: Width of what is told of a listed thing.
        pointer_trust: Share of one thing in what is pointed at from which on the rest of the
            prompt is mostly made of what the list tells of that one, if its name is unsure: what
            has a sure name the decoder knows itself. ``None`` for never.
        pointer_unnamed: How much it speaks for a thing that its name is unsure, see
            :class:`~llmbind_cli.nn.list_pointer.ListPointer`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        prompt_width: int = 128,
        num_heads: int = 4,
        attended_maps: int = 2,
        neck_layers: int = 0,
        tuned_from: int | None = None,
        pointer_width: int = 0,
        told_width: int | None = None,
        pointer_trust: float | None = None,
        pointer_unnamed: float = 0.0,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be ≥ 1 for at least one map, got {list(channels)}")
        if num_heads < 1 or prompt_width % (4 * num_heads):
            raise ValueError(
                f"prompt_width must be a multiple of 4 · num_heads, got {prompt_width} with "
                f"{num_heads} heads"
            )
        if attended_maps < 1 or neck_layers < 0:
            raise ValueError(
                f"attended_maps must be ≥ 1 and neck_layers ≥ 0, got {attended_maps} and "
                f"{neck_layers}"
            )
        if pointer_width < 0 or (pointer_width and told_width is None):
            raise ValueError(
                f"pointer_width must be 0, or ≥ 1 with object_tokens, got {pointer_width}"
            )
        if pointer_trust is not None and not (pointer_width and 0 < pointer_trust <= 1):
            raise ValueError(
                f"pointer_trust must be in (0, 1], with a pointer_width ≥ 1, got {pointer_trust}"
            )
        if pointer_unnamed and not (pointer_width and pointer_unnamed > 0):
            raise ValueError(
                f"pointer_unnamed must be ≥ 0, with a pointer_width ≥ 1, got {pointer_unnamed}"
            )
        self.prompt_width = prompt_width + pointer_width
        self.pointer_trust = pointer_trust
        self.pointer = self.pointed = None
        if pointer_width and told_width is not None:
            self.pointer = ListPointer(
                query_width=pointer_width, told_width=told_width, unnamed=pointer_unnamed
            )
            self.pointed = nn.Parameter(torch.zeros(prompt_width))
        self.listed = None
        if pointer_trust is not None and told_width is not None:
            self.listed = nn.Linear(told_width, prompt_width)
            nn.init.zeros_(self.listed.weight)
            nn.init.zeros_(self.listed.bias)
        num_coarse = min(attended_maps, len(channels))
        fine, coarse = channels[:-num_coarse], channels[-num_coarse:]
        self.num_fine = len(fine)
        self.last = None if tuned_from is None else LastBlocks(tuned_from)
        self.coarse = nn.ModuleList(Lateral(c, prompt_width) for c in coarse)
        self.neck = nn.Sequential(*(NeckBlock(prompt_width) for _ in range(neck_layers)))
        self.mask_token = nn.Parameter(torch.randn(prompt_width) * prompt_width**-0.5)
        self.layers = nn.ModuleList(_TwoWayLayer(prompt_width, num_heads) for _ in range(_LAYERS))
        self.final_attention = _Attention(prompt_width, num_heads)
        self.final_norm = nn.LayerNorm(prompt_width)
        width, steps = prompt_width, []
        for c in reversed(fine):
            steps.append(_UpStep(c, width, max(16, width // 2)))
            width = max(16, width // 2)
        self.up = nn.ModuleList(steps)
        self.hyper = nn.Sequential(
            nn.Linear(prompt_width, prompt_width), nn.ReLU(), nn.Linear(prompt_width, width + 1)
        )

    def forward(
        self,
        maps: Sequence[Tensor],
        prompts: Tensor,
        image_of: Tensor,
        things: ListedThings | None = None,
    ) -> Tensor:
        """Decode masks.

        Args:
            maps: Finest first, each [G, C, h, w]; without the one that is made here.
            prompts: [M, P], and what points at listed things after that.
            image_of: Which image each prompt is about, int64 in [0, G), [M].
            things: What is listed of the images, for a decoder that points at it.

        Returns:
            Logits at the resolution of the finest map, [M, h', w'].

        Raises:
            ValueError: This decoder points at things, and there is no list of them.
        """
        return self.masks(self.embedding(maps), maps, prompts, image_of, things)

    def embedding(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what the prompts attend to, the same for all prompts of an image.

        Args:
            maps: Finest first, each [G, C, h, w].

        Returns:
            [G, P, h, w] at the side of the finest of the maps attended to.
        """
        attended = list(maps[self.num_fine :])
        if self.last is not None:
            attended.append(self.last(maps[-1]))
        embedding: Tensor = self.coarse[0](attended[0])
        for lateral, coarse in zip(self.coarse[1:], attended[1:], strict=True):
            embedding = embedding + functional.interpolate(
                lateral(coarse), embedding.shape[-2:], mode="bilinear", align_corners=False
            )
        refined: Tensor = self.neck(embedding)
        return refined

    def masks(
        self,
        embedding: Tensor,
        maps: Sequence[Tensor],
        prompts: Tensor,
        image_of: Tensor,
        things: ListedThings | None = None,
    ) -> Tensor:
        """Decode masks from an :meth:`embedding` [G, P, h, w]; the rest as for the whole."""
        attended = embedding[image_of]  # [M, P, h, w]
        if self.pointer is not None and self.pointed is not None:
            if things is None:
                raise ValueError("a decoder that points at listed things needs a list of them")
            prompts, queries = prompts.tensor_split([len(self.pointed)], dim=1)
            shares = self.pointer.shares(queries, things, image_of)  # [M, N]
            shown = heat(shares, things, image_of, (attended.shape[-2], attended.shape[-1]))
            attended = attended + shown[:, None] * self.pointed[:, None, None]
            prompts = self._told(prompts, shares, things, image_of)
        tokens = torch.stack([self.mask_token.expand_as(prompts), prompts], dim=1)  # [M, 2, P]
        tokens, image = self._attend(tokens, attended)
        for step, fine in zip(self.up, reversed(maps[: self.num_fine]), strict=True):
            image = step(image, fine, image_of)
        weights = self.hyper(tokens[:, 0])  # [M, width + 1]
        logits: Tensor = torch.einsum("mc,mchw->mhw", weights[:, :-1], image)
        shifted: Tensor = logits + weights[:, -1, None, None]
        return shifted

    def _told(
        self, prompts: Tensor, shares: Tensor, things: ListedThings, image_of: Tensor
    ) -> Tensor:
        """Let prompts [M, P] for things without a sure name say what the list tells of them."""
        if self.listed is None or self.pointer_trust is None:
            return prompts
        listed = torch.einsum("mn,mnp->mp", shares, self.listed(things.told)[image_of])
        most, which = shares.max(1, keepdim=True)  # [M, 1]
        named = things.told[..., SURENESS.start][image_of].gather(1, which)
        meant = (most >= self.pointer_trust) & (named < _NAMED)
        return torch.where(meant, torch.lerp(prompts, listed.to(prompts), _LISTED), prompts)

    def _attend(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens [M, 2, P] and image [M, P, h, w] read each other."""
        height, width = image.shape[-2:]
        places = place_encoding(height, width, image.shape[1]).to(image)  # [h · w, P]
        flat = image.flatten(2).transpose(1, 2)  # [M, h · w, P]
        queries = tokens
        for layer in self.layers:
            tokens, flat = layer(tokens, flat, queries, places)
        read = self.final_attention(tokens + queries, flat + places, flat)
        tokens = self.final_norm(tokens + read)
        return tokens, flat.transpose(1, 2).reshape(len(flat), -1, height, width)


class _UpStep(nn.Module):
    """Double the side, add a finer map of the encoder, and mix neighbours."""

    def __init__(self, channels: int, width: int, narrower: int) -> None:
        super().__init__()
        self.lateral = Lateral(channels, narrower)
        self.mix = nn.Conv2d(width, narrower, 1)
        self.convolution = nn.Conv2d(narrower, narrower, 3, padding=1)

    def forward(self, image: Tensor, fine: Tensor, image_of: Tensor) -> Tensor:
        """[M, width, h, w] and [G, C, 2h, 2w] → [M, narrower, 2h, 2w]."""
        lateral = self.lateral(fine)[image_of]
        raised = functional.interpolate(
            self.mix(image), lateral.shape[-2:], mode="bilinear", align_corners=False
        )
        hidden = functional.gelu(raised + lateral)
        mixed: Tensor = functional.gelu(self.convolution(hidden)) + hidden
        return mixed


class _Attention(nn.Module):
    """Multi-head attention of queries [M, Q, P] to [M, K, P]."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return [M, Q, P]."""
        heads = [
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in (
                (self.query, queries),
                (self.key, keys),
                (self.value, values),
            )
        ]  # [M, heads, Q or K, P / heads]
        read = functional.scaled_dot_product_attention(*heads)
        mixed: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return mixed


class _TwoWayLayer(nn.Module):
    """One layer of the two-way transformer: tokens read each other and the image, and back."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.self_attention = _Attention(width, num_heads)
        self.to_image = _Attention(width, num_heads)
        self.to_tokens = _Attention(width, num_heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, _MLP_RATIO * width), nn.GELU(), nn.Linear(_MLP_RATIO * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(
        self, tokens: Tensor, image: Tensor, queries: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens [M, 2, P] and image [M, h · w, P] → the same shapes.

        ``queries`` are the tokens as they came in, added wherever attention compares; ``places``
        [h · w, P] does the same for the image.
        """
        asked = tokens + queries
        tokens = self.norms[0](tokens + self.self_attention(asked, asked, tokens))
        read = self.to_image(tokens + queries, image + places, image)
        tokens = self.norms[1](tokens + read)
        tokens = self.norms[2](tokens + self.mlp(tokens))
        told = self.to_tokens(image + places, tokens + queries, tokens)
        return tokens, self.norms[3](image + told)


def place_encoding(height: int, width: int, channels: int) -> Tensor:
    """Encode the places of a grid by sines and cosines, half of the channels for each axis.

    Args:
        height: Rows.
        width: Columns.
        channels: A multiple of 4.

    Returns:
        Float32, [height · width, channels], row after row; from coordinates in [0, 1], so that it
        does not hang on the grid's resolution.
    """
    frequencies = 2.0 ** (torch.arange(channels // 4) * (6.0 / (channels // 4))) * torch.pi
    halves = []
    for size in (height, width):
        along = (torch.arange(size) + 0.5) / size
        angles = along[:, None] * frequencies  # [size, channels / 4]
        halves.append(torch.cat([angles.sin(), angles.cos()], dim=1))
    down, across = halves
    grid = torch.cat(
        [
            down[:, None].expand(-1, width, -1),
            across[None].expand(height, -1, -1),
        ],
        dim=2,
    )
    return grid.flatten(0, 1)
