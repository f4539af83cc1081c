"""The model card of a trained bundle."""

from __future__ import annotations

import json

from llmbind_cli import __version__
from llmbind_cli.model.config import BundleConfig


def training_card(config: BundleConfig) -> str:
    """Return the card of a bundle: what was trained, on what, with which recipe.

    Figures of quality are not on it: they are measured afterwards, on data that this training
    never saw.
    """
    training = config.training
    tasks = ", ".join(f"`{t.open}` {t.task}" for t in config.tokens)
    sources = "\n".join(
        f"- {s['name']} ({s['kind']}): {s['dialogues']} dialogues"
        + "".join(f"\n  - {name}, sha256 {digest}" for name, digest in s["files"].items())
        for s in training["sources"]
    )
    start = training.get("start")
    began = "" if start is None else f"\n- Continues the training of {start['name']}"
    if mixed := training.get("mixed_with"):
        share, other = mixed["share"], mixed["name"]
        began += f"\n- Its weights are mixed with a share of {share} of those of {other}"
    fitted = "".join(
        f"\n- Fitted apart, {part.replace('_', ' ')}: "
        + ", ".join(f"{name} {value}" for name, value in told.items())
        for part, told in training.get("fitted", {}).items()
    )
    count = training.get("parameters_trained")  # bundles of before this was counted lack it
    trained = "" if count is None else f"\n- Trained parameters: {count:,}"
    sight = ""
    if config.sight is not None:
        tower, grounding = config.sight.vision_tower, config.sight.grounding_encoder
        sight = f"\n- Sees with: {tower.family} at {tower.side_px} px"
        if tower.tuned_from is not None:
            sight += f", its blocks tuned from stride {tower.tuned_from} on"
        if grounding is not None:
            sight += f"; cuts out with: {grounding.family} at {grounding.side_px} px"
            if grounding.tuned_from is not None:
                sight += f", its blocks tuned from stride {grounding.tuned_from} on"
        if config.sight.mask_decoder.get("pointer_width"):
            sight += ", pointing at what is listed"
        if (smoothing := config.sight.mask_filter) is not None:
            sight += f", a guided filter of radius {smoothing.radius} and eps {smoothing.eps:g}"
    return f"""# {config.name}

LoRA-MoE adapters and task-token rows for the frozen language model
`{config.language_model.source}`, trained with llmbind {__version__}.

- Task tokens: {tasks}{sight}{fitted}{trained}
- Optimizer steps: {training["steps"]}; dialogues seen: {training["dialogues_seen"]}{began}
- Seed: {training["recipe"]["train"]["seed"]}

## Data

{sources}

Hash over the encoded samples: {training["data_sha256"]}

## Recipe

```json
{json.dumps(training["recipe"], indent=2)}
```

## Licences

{chr(10).join(f"- {part}: {name}" for part, name in config.licences.items())}
"""
