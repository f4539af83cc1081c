"""Memory of a training run, by arithmetic alone.

What the ZeRO stages shard follows Rajbhandari et al. (arXiv 1910.02054, section 5). What a decoder
block keeps for its backward pass is counted as Korthikanti et al. count it (arXiv 2205.05198,
section 4.1), for a block with RMSNorm and a gated feed-forward network whose own weights are
frozen: a frozen linear layer keeps no input, so that much less is kept than by their Eq. (1).

Notation: ``B`` dialogues, ``S`` ids each, ``T = B S``, ``D`` hidden width, ``F`` feed-forward
width, ``H`` attention width (heads × head width), ``a`` heads, ``V`` vocabulary, ``L`` blocks,
``N`` experts of rank ``r``, ``e`` bytes of one activation, ``W`` devices.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


WEIGHT_BYTES = 4
"""A trained parameter stands in float32, whatever the frozen ones stand in."""

GRADIENT_BYTES = 4

MOMENT_BYTES = 8
"""Both moments of AdamW, float32."""

MASTER_BYTES = 4
"""From ZeRO 1 on, AdamW steps a float32 copy of this process's shard: with the moments, the
K = 12 of arXiv 1910.02054."""


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """Bytes of weights, gradients and optimizer on one device.

    Attributes:
        frozen: Frozen weights.
        weights: Trainable weights.
        gradients: Their gradients.
        optimizer: AdamW's moments and, from ZeRO 1 on, the copy that it steps.
    """

    frozen: int
    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All four."""
        return self.frozen + self.weights + self.gradients + self.optimizer


def model_memory(
    *,
    frozen: int,
    trainable: int,
    frozen_bytes: int,
    zero_stage: int,
    devices: int,
    offload_optimizer: bool = False,
) -> ModelMemory:
    """Return what one of ``devices`` holds.

    Stage 1 shards the optimizer, stage 2 the gradients as well, stage 3 all weights as well, the
    frozen ones included (arXiv 1910.02054, figure 1).

    Args:
        frozen: Number of frozen parameters.
        trainable: Number of trainable parameters.
        frozen_bytes: Bytes of one frozen parameter.
        zero_stage: 0 to 3.
        devices: ``W``.
        offload_optimizer: The optimizer's part lies in the host's memory (ZeRO 1 to 3).

    Raises:
        ValueError: The stage is none of these, or there is no device.
    """
    if zero_stage not in range(4):
        raise ValueError(f"zero_stage must be 0, 1, 2 or 3, got {zero_stage}")
    if devices < 1:
        raise ValueError(f"devices must be ≥ 1, got {devices}")
    weight_shards = devices if zero_stage == 3 else 1
    gradient_shards = devices if zero_stage >= 2 else 1
    optimizer = trainable * MOMENT_BYTES
    if zero_stage >= 1:
        optimizer_bytes = 0 if offload_optimizer else MASTER_BYTES + MOMENT_BYTES
        optimizer = trainable * optimizer_bytes // devices
    return ModelMemory(
        frozen=frozen * frozen_bytes // weight_shards,
        weights=trainable * WEIGHT_BYTES // weight_shards,
        gradients=trainable * GRADIENT_BYTES // gradient_shards,
        optimizer=optimizer,
    )


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What decides how much a forward pass keeps.

    Attributes:
        hidden: ``D``.
        feed_forward: ``F``.
        attention: ``H``.
        heads: ``a``.
        layers: ``L``.
        adapted_layers: Blocks whose gate, up and down projections have LoRA-MoE.
        adapter_width: ``N r + N``, what an adapted linear layer keeps of each id.
        vocabulary: ``V``.
    """

    hidden: int
    feed_forward: int
    attention: int
    heads: int
    layers: int
    adapted_layers: int
    adapter_width: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class ActivationMemory:
    """Bytes of one forward and backward pass on one device; no ZeRO stage shards them.

    Attributes:
        kept: What the blocks and the last norm keep for the backward pass.
        workspace: Gradients inside the block in hand and, with checkpointing, what it keeps.
        logits: The output layer's rows in hand.
    """

    kept: int
    workspace: int
    logits: int

    @property
    def total(self) -> int:
        """All three: the peak is not above it, allocator and runtime aside."""
        return self.kept + self.workspace + self.logits


def block_bytes(
    shape: BlockShape, *, batch: int, tokens: int, element: int, fused: bool, adapted: bool
) -> int:
    """Return what one decoder block keeps for its backward pass.

    A, for each id:

    * both norms: ``8 D + 8`` (a float32 copy of the input, and its scale);
    * fused attention: ``4 e H + 4 a + e S`` (query, key, value, output, the row sums, the mask);
      unfused: ``3 e H + 4 a S`` (query, key, value, float32 weights) and, below float32,
      ``e a S`` more for their 16-bit copy;
    * gated feed-forward network: ``3 e F`` (gate, its activation, up);
    * where it is adapted: ``e (D + F)`` (inputs of gate and up, and of down), ``3 e (N r + N)``.

    Args:
        shape: The block.
        batch: ``B``.
        tokens: ``S``, padding included.
        element: ``e``, 2 or 4.
        fused: Whether attention is one kernel that keeps no weights.
        adapted: Whether the block has LoRA-MoE.
    """
    per_id = 8 * shape.hidden + 8 + 3 * element * shape.feed_forward
    if fused:
        per_id += 4 * element * shape.attention + 4 * shape.heads + element * tokens
    else:
        copies = 4 if element == 4 else 4 + element
        per_id += 3 * element * shape.attention + copies * shape.heads * tokens
    if adapted:
        per_id += element * (shape.hidden + shape.feed_forward + 3 * shape.adapter_width)
    return batch * tokens * per_id


def activation_memory(
    shape: BlockShape,
    *,
    batch: int,
    tokens: int,
    element: int,
    fused: bool,
    checkpointing: bool,
    logit_rows: int,
) -> ActivationMemory:
    """Return the activation memory of one forward and backward pass.

    With gradient checkpointing the blocks keep their inputs alone, ``e D`` for each id and block,
    and the block in hand is computed again. The workspace for a block's gradients is taken to be
    as large as what the block keeps. After the blocks, each id takes ``4 D + 4`` for the last norm
    and ``2 e D`` for its output and for the rows that go into the output layer, as if every id
    carried loss. Of the logits only ``logit_rows`` exist at a time, with ``2 e + 12`` bytes an
    entry (before and after the rows of the task tokens, float32, log-softmax, gradient), twice
    where a reply is trained towards the base's own distribution.

    Args:
        shape: The model.
        batch: ``B``.
        tokens: ``S``, padding included.
        element: ``e``, 2 or 4.
        fused: Whether attention is one kernel that keeps no weights.
        checkpointing: Whether gradient checkpointing is on.
        logit_rows: Rows that the output layer sees at a time.
    """
    adapted, plain = (
        block_bytes(
            shape, batch=batch, tokens=tokens, element=element, fused=fused, adapted=is_adapted
        )
        for is_adapted in (True, False)
    )
    largest = adapted if shape.adapted_layers else plain
    if checkpointing:
        kept = shape.layers * batch * tokens * element * shape.hidden
        workspace = 2 * largest
    else:
        kept = shape.adapted_layers * adapted + (shape.layers - shape.adapted_layers) * plain
        workspace = largest
    kept += batch * tokens * (4 * shape.hidden + 4 + 2 * element * shape.hidden)
    logits = 2 * logit_rows * shape.vocabulary * (2 * element + 12)
    return ActivationMemory(kept=kept, workspace=workspace, logits=logits)


def training_flops(
    shape: BlockShape, *, base: int, adapters: int, tokens: float, checkpointing: bool
) -> float:
    """Return the floating-point operations that training takes for each id.

    Frozen weights cost 2 operations a parameter forward and 2 backward (the gradient of the input
    alone), trained ones 6; attention ``4 H S`` forward and twice that backward in each block. With
    gradient checkpointing the forward pass is made twice. The output layer counts as if every id
    carried loss; it serves the ids that do, and its forward pass is made twice in any case.

    Args:
        shape: The model.
        base: Frozen parameters that multiply, so without the input embedding.
        adapters: Trained parameters.
        tokens: Mean length ``S`` of a dialogue.
        checkpointing: Whether gradient checkpointing is on.
    """
    attention = 4 * shape.layers * shape.attention * tokens
    forward = 2 * base + 2 * adapters + attention
    backward = 2 * base + 4 * adapters + 2 * attention
    return forward * (2 if checkpointing else 1) + backward
