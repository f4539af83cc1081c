"""The tokenizers of a pipeline: whether they are whole, and how long a prompt they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmbind_cli.errors import IntegrityError
from llmbind_cli.generators.pipeline_call import default_of


def check_tokenizers(folder: Path, pipeline: Any) -> None:
    """Refuse tokenizers that came up empty or do not fit their text encoder.

    transformers builds a tokenizer of special tokens alone when the vocabulary file is absent.

    Raises:
        IntegrityError: Names the tokenizer's folder.
    """
    for name, tokenizer in tokenizers(pipeline).items():
        words = len(tokenizer) - len(set(tokenizer.all_special_tokens))
        if words < 1:
            raise IntegrityError(
                f"{folder / name}: the tokenizer has no vocabulary; its files are missing or "
                f"incomplete"
            )
        encoder = getattr(pipeline, _encoder_name(name), None)
        rows = getattr(getattr(encoder, "config", None), "vocab_size", None)
        if rows is not None and len(tokenizer) > rows:
            raise IntegrityError(
                f"{folder / name}: {len(tokenizer)} tokens, but the text encoder has {rows} "
                f"embedding rows"
            )


def tokenizers(pipeline: Any) -> dict[str, Any]:
    """Return the tokenizers of a pipeline by component name."""
    return {
        name: component
        for name, component in pipeline.components.items()
        if name.startswith("tokenizer") and component is not None
    }


def prompt_length(pipeline: Any, prompt: str) -> tuple[int, int] | None:
    """Return how long a prompt is and how much of it the pipeline reads, in tokens.

    Pipelines with several text encoders give the whole prompt to the widest one. Encoders that
    are not CLIP's read as far as the call's ``max_sequence_length``, where it has one.

    Args:
        pipeline: A diffusers pipeline.
        prompt: Any text.

    Returns:
        Length and limit by the widest tokenizer; ``None`` for a pipeline without tokenizers.
    """
    limits = []
    for name, tokenizer in tokenizers(pipeline).items():
        if pipeline.components.get(_encoder_name(name), tokenizer) is None:
            continue
        bound = default_of(pipeline, "max_sequence_length")
        by_tokenizer = bound is None or type(tokenizer).__name__.startswith("CLIP")
        limits.append((int(tokenizer.model_max_length if by_tokenizer else bound), tokenizer))
    if not limits:
        return None
    limit, widest = max(limits, key=lambda pair: pair[0])
    return len(widest(prompt, truncation=False, verbose=False).input_ids), limit


def _encoder_name(tokenizer_name: str) -> str:
    return tokenizer_name.replace("tokenizer", "text_encoder")
