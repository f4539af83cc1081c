"""The model that a recipe describes, ready to be trained."""

from __future__ import annotations

from llmbind_cli.data.batches import Collate, collate
from llmbind_cli.errors import ConfigurationError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.build import build_model
from llmbind_cli.model.checkpoint import restore_weights
from llmbind_cli.model.config import MaskFilter, ObjectTokens, SightConfig, VisionNetwork
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, adapter_config_of
from llmbind_cli.recipes.dialogue_schema import ConversationFiles
from llmbind_cli.recipes.picture_schema import MaskedSource
from llmbind_cli.recipes.schema import LoraMoeSection, Recipe
from llmbind_cli.recipes.sight_schema import NetworkSection, SightSection
from llmbind_cli.training.compilation import compile_blocks
from llmbind_cli.training.feature_cache import FeatureCache
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.training.sight_losses import MaskWeights
from llmbind_cli.training.start import Start, find_start


def build_from_recipe(recipe: Recipe, *, device: str, offline: bool) -> BoundModel:
    """Build the recipe's model, set up as the recipe wants it trained.

    Args:
        recipe: The recipe.
        device: ``auto``, ``cpu`` or ``cuda``.
        offline: Never use the network.
    """
    model = build_model(
        name=recipe.output.name,
        base=recipe.model.base,
        base_sha256=recipe.model.base_sha256,
        tasks=list(recipe.tokens.tasks),
        adapter=adapter_config(recipe.lora_moe),
        licences=dict(recipe.output.licences),
        sight=None if recipe.sight is None else sight_config(recipe.sight),
        device=device,
        dtype=recipe.model.dtype,
        seed=recipe.train.seed,
        offline=offline,
    )
    if recipe.train.gradient_checkpointing:
        # Reentrant checkpointing would hide the routers from the load-balancing loss.
        model.language_model.activation_checkpointing_enable(  # type: ignore[operator]
            {"use_reentrant": False}
        )
    if model.device.type == "cpu":
        # The fused attention's backward pass takes twice as long there at dialogue lengths.
        model.language_model.set_attn_implementation("eager")  # type: ignore[operator]
    if recipe.train.compile:
        compile_blocks(model)
    return model


def check_pictures(recipe: Recipe) -> None:
    """Refuse pictures for a model that does not see.

    Raises:
        ConfigurationError: A source has pictures, and the recipe has no ``[sight]``, or none that
            cuts out what the source teaches to.
    """
    if recipe.sight is not None and recipe.sight.grounding_encoder is not None:
        return
    for source in recipe.data:
        if isinstance(source, MaskedSource) or (
            isinstance(source, ConversationFiles) and source.images
        ):
            if recipe.sight is not None and isinstance(source, ConversationFiles):
                continue
            lacking = "[sight]" if recipe.sight is None else "[sight.grounding_encoder]"
            raise ConfigurationError(
                f"data: {source.name} has pictures, and the recipe has no {lacking} to see them "
                f"with; --dry-run checks and shows them"
            )


def take_start(recipe: Recipe, model: BoundModel, *, offline: bool) -> Start | None:
    """Give the model the weights that ``model.start`` names, and return whose they are."""
    if recipe.model.start is None:
        return None
    start = find_start(
        recipe.model.start,
        base=model.config.language_model.sha256,
        token_ids=model.config.token_ids,
        adapter=adapter_config_of(model.language_model),
        offline=offline,
    )
    restore_weights(model, start.bundle, new_layers=start.new_layers, new_modules=start.new_modules)
    return start


def sight_config(section: SightSection) -> SightConfig:
    """Return what ``[sight]`` describes as a bundle tells it."""

    def network(entry: NetworkSection) -> VisionNetwork:
        return VisionNetwork(
            family=entry.family,
            source=entry.source,
            sha256=entry.sha256,
            side_px=entry.side_px,
            fit=entry.fit,
            layer=entry.layer,
            strides=tuple(entry.strides),
            cell_colours=entry.cell_colours,
            tuned_from=entry.tuned_from,
        )

    grounding, objects = section.grounding_encoder, section.object_tokens
    smoothing = section.mask_filter
    return SightConfig(
        vision_tower=network(section.vision_tower),
        grounding_encoder=None if grounding is None else network(grounding),
        mask_decoder=section.mask_decoder.model_dump(exclude_none=True),
        mask_filter=None if smoothing is None else MaskFilter(**smoothing.model_dump()),
        object_tokens=None if objects is None else ObjectTokens(**objects.model_dump()),
        image_marks=section.image_marks or (),
        segment_prompt=section.segment_prompt,
    )


def mask_weights(section: SightSection | None) -> MaskWeights | None:
    """Return the weights of the losses of masks that ``[sight]`` gives."""
    if section is None:
        return None
    return MaskWeights(
        mask=section.mask_weight,
        bce=section.bce_weight,
        dice=section.dice_weight,
        box=section.box_weight,
    )


def collator(recipe: Recipe, model: BoundModel) -> Collate:
    """Return what makes batches of samples for the recipe's model."""
    if model.sight is None or recipe.sight is None:
        return collate
    section, cache = recipe.sight.cache, None
    if section is not None:
        sight = model.config.sight
        if sight is None:
            raise ValueError("a model that sees must say so in its configuration")
        cache = FeatureCache(
            section.dir,
            budget_bytes=int(section.budget_gib * 2**30),
            identities={
                "tower": repr(sight.vision_tower),
                "grounding": repr(sight.grounding_encoder),
            },
        )
    return SeeingCollator(model.sight, cache=cache)


def adapter_config(section: LoraMoeSection) -> LoraMoeConfig:
    """Return the adapter's configuration that ``[lora_moe]`` describes."""
    layers = section.layers
    return LoraMoeConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        num_experts=section.num_experts,
        top_k=section.top_k,
        lora_dropout=section.dropout,
        router=section.router,
        target_modules=list(section.target_modules),
        layers_to_transform=layers if isinstance(layers, list) else None,
        every=1 if layers == "all" else 2,
    )
