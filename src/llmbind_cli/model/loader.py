"""``load_model``: the only way a bundle becomes a model in memory."""

from __future__ import annotations

from llmbind_cli.errors import IntegrityError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.bundle_folder import EMBEDDED, fingerprint, locate_bundle
from llmbind_cli.model.checkpoint import check_base, read_heads
from llmbind_cli.model.config import ADAPTER_DIR, CONFIG_NAME, BundleConfig
from llmbind_cli.model.language_model import (
    load_language_model,
    load_tokenizer,
)
from llmbind_cli.model.lora_moe_adapter import load_adapter
from llmbind_cli.model.token_rows import INPUT_ROWS, OUTPUT_ROWS, attach_token_rows, is_tied
from llmbind_cli.model.vision.loading import load_sight
from llmbind_cli.model.vision.networks import resolve_part
from llmbind_cli.nn.device import choose_device, choose_dtype
from llmbind_cli.tokens import TokenTable
from llmbind_cli.weights import cache


def load_model(
    source: str = EMBEDDED, *, device: str = "auto", dtype: str = "auto", offline: bool = False
) -> BoundModel:
    """Load a bundle on its frozen base, ready to answer.

    Args:
        source: ``embedded``, or a bundle directory, or any source of the weights room that
            resolves to one.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: Dtype of the frozen weights; ``auto`` takes the fastest the device multiplies
            natively, ``int8`` and ``int4`` quantise on CUDA.
        offline: Take the base from the cache or fail at once.

    Returns:
        The model in evaluation mode, with all parameters frozen.

    Raises:
        ModelNotFoundError: No bundle there, or its base is neither cached nor to be fetched.
        IntegrityError: Any part fails a check (faults 27–32).
        UnavailableError: The device or an optional package is missing.
    """
    chosen = choose_device(device)
    bundle = locate_bundle(source, offline=offline)
    config = BundleConfig.read(bundle)
    tokenizer = load_tokenizer(bundle)
    table = TokenTable.bind(tokenizer, config.tokens)
    if table.ids != config.token_ids:
        moved = sorted(s for s, index in table.ids.items() if config.token_ids.get(s) != index)
        raise IntegrityError(
            f"{bundle}: the tokenizer gives {', '.join(moved)} another id than {CONFIG_NAME}"
        )
    base = cache.resolve(
        resolve_part(config.language_model.source, bundle),
        sha256=config.language_model.sha256,
        offline=offline,
    )
    language_model = load_language_model(base, device=chosen, dtype=dtype)
    check_base(bundle, config.language_model, language_model)
    sight = None
    if config.sight is not None:
        sight = load_sight(
            config.sight,
            bundle=bundle,
            hidden_size=config.language_model.hidden_size,
            tasks=[token.task for token in config.tokens],
            device=chosen,
            dtype=choose_dtype(dtype, chosen),
            offline=offline,
        )
    heads = read_heads(
        bundle,
        num_tokens=len(table.ids),
        hidden_size=config.language_model.hidden_size,
        tied=is_tied(language_model),
        sight=sight,
    )
    rows = {name: heads[name].to(chosen) for name in (INPUT_ROWS, OUTPUT_ROWS) if name in heads}
    attach_token_rows(language_model, table, rows)
    if sight is not None:
        sight.load_heads(heads)
        sight.eval().requires_grad_(False)
    load_adapter(language_model, bundle / ADAPTER_DIR, base_sha256=config.language_model.sha256)
    language_model.eval().requires_grad_(False)
    return BoundModel(
        config=config,
        tokenizer=tokenizer,
        language_model=language_model,
        token_table=table,
        fingerprint=fingerprint(bundle),
        sight=sight,
    )
