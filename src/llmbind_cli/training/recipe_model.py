"""The model that a recipe describes, ready to be trained."""

from __future__ import annotations

from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.build import build_model
from llmbind_cli.model.checkpoint import restore_weights
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, adapter_config_of
from llmbind_cli.recipes.schema import LoraMoeSection, Recipe
from llmbind_cli.training.compilation import compile_blocks
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
    restore_weights(model, start.bundle, new_layers=start.new_layers)
    return start


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
