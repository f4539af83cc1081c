"""Put a trained bundle into the package and write its measured figures onto its model card.

python tools/embedded_bundle/adopt.py runs/embedded/bundle
python tools/embedded_bundle/adopt.py --image PIPELINE
python tools/embedded_bundle/adopt.py --sight REPORT.json
python tools/embedded_bundle/adopt.py --again

The second form puts an image generator into the bundle that is there, and the third writes the
figures of ``llmbind eval eval/embedded-sight`` onto its card. The last takes the figures of what
that bundle writes once more, after decoding has changed. Each leaves the others' parts as they are.
A bundle that writes as the one before, since nothing but its masks differs, keeps the figures of
what it writes; those of what it sees are then to be taken again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "src" / "llmbind_cli" / "bundles" / "embedded"
GENERATORS = TARGET / "generators"
RESULTS = ROOT / "benchmarks" / "results"
WRITING = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
)
OF_MASKS = {
    "grounding_encoder",
    "mask_decoder",
    "mask_filter",
    "training",
    "generators",
    "licences",
}
SINCE = {"object_tokens": None}
"""What earlier bundles meant that say nothing of it."""
DECODER, PROMPTS = "mask_decoder.", "prompt_projection."
HEADING, SIGHT_HEADING = "## Measured", "## Sight"
MEASUREMENTS = {
    "routing": (
        "Routing of requests that training never saw, written one by one",
        ["routing.py", "--batch-size", "16"],
    ),
    "routing-hard": (
        "Routing of hard requests that training never saw: indirect, long, misspelt, several "
        "wishes, changes of mind, talk about media and tags",
        ["routing.py", "tests/data/hard_requests.jsonl", "--batch-size", "16"],
    ),
    "routing-unseen": (
        "Routing of hard requests that training never saw, another set",
        ["routing.py", "tests/data/unseen_requests.jsonl", "--batch-size", "16"],
    ),
    "routing-fresh": (
        "Routing of requests that training never saw, half of them hard",
        ["routing.py", "tests/data/fresh_requests.jsonl", "--batch-size", "16"],
    ),
    "plain-talk": (
        "Loss on written replies to plain messages, beside that of the base model",
        ["plain_talk.py"],
    ),
}


def main() -> None:
    """Copy, measure with the shipped commands, complete the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--image", type=Path, metavar="PIPELINE")
    parser.add_argument("--sight", type=Path, metavar="REPORT.json")
    parser.add_argument("--again", action="store_true", help="measure what the bundle writes anew")
    arguments = parser.parse_args()
    kept = ""
    if arguments.bundle is not None:
        if writes_alike(arguments.bundle, TARGET):
            card = (TARGET / "README.md").read_text(encoding="utf-8")
            kept = "".join(card.partition(SIGHT_HEADING)[0].partition(HEADING)[1:])
        adopt_bundle(arguments.bundle)
    if arguments.image is not None:
        shutil.rmtree(GENERATORS / "image", ignore_errors=True)
        shutil.copytree(arguments.image, GENERATORS / "image")
    name_generators()
    for path in TARGET.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if arguments.bundle is not None:
        complete_card(kept or f"{HEADING}\n\n{measured()}")
    if arguments.again:
        sight = "".join((TARGET / "README.md").read_text("utf-8").partition(SIGHT_HEADING)[1:])
        complete_card(f"{HEADING}\n\n{measured()}\n{sight}".rstrip() + "\n")
    if arguments.sight is not None:
        add_sight(json.loads(arguments.sight.read_text(encoding="utf-8")))


def adopt_bundle(bundle: Path) -> None:
    """Replace all of the embedded bundle but its generators."""
    for old in TARGET.iterdir():
        if old.is_dir() and old != GENERATORS:
            shutil.rmtree(old)
        elif old.is_file():
            old.unlink()
    shutil.copytree(bundle, TARGET, dirs_exist_ok=True)


def name_generators() -> None:
    """Have the bundle's table name the generators that lie in it."""
    path = TARGET / "llmbind.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    found = sorted(folder.name for folder in GENERATORS.glob("*") if folder.is_dir())
    config["generators"] = {modality: f"generators/{modality}" for modality in found}
    if "image" in found:
        config["licences"]["image generator"] = "Apache-2.0"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def writes_alike(bundle: Path, other: Path) -> bool:
    """Tell whether two bundles differ in what makes masks alone."""
    if not (other / "llmbind.json").exists():
        return False
    texts = [(one / "llmbind.json").read_text("utf-8") for one in (bundle, other)]
    told = [SINCE | json.loads(text) for text in texts]
    configs = [{k: v for k, v in config.items() if k not in OF_MASKS} for config in told]
    heads = [
        {
            name: tensor
            for name, tensor in load_file(one / "heads.safetensors").items()
            if not name.startswith((DECODER, PROMPTS))
        }
        for one in (bundle, other)
    ]
    return (
        configs[0] == configs[1]
        and all((bundle / name).read_bytes() == (other / name).read_bytes() for name in WRITING)
        and heads[0].keys() == heads[1].keys()
        and all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())
    )


def complete_card(figures: str) -> None:
    """Write figures onto the bundle's card, in place of those that stand there."""
    card = TARGET / "README.md"
    text = card.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    card.write_text(f"{text}\n\n{figures}", encoding="utf-8")


def measured() -> str:
    """Run all measurements side by side, one thread each; return the card's section."""
    RESULTS.mkdir(exist_ok=True)
    runs = {
        name: subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments(name), "--report", str(RESULTS / f"{name}.json")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in MEASUREMENTS
    }
    parts = []
    for name, run in runs.items():
        printed, _ = run.communicate()
        if run.returncode:
            sys.exit(f"{name} ended with {run.returncode}")
        print(printed)
        figures = json.loads((RESULTS / f"{name}.json").read_text())
        parts.append(
            f"{MEASUREMENTS[name][0]}\n({figures['n']} of {figures['data']['name']}, sha256 "
            f"{figures['data']['sha256']}; greedy decoding, {figures['dtype']}, seed "
            f"{figures['seed']}; `python {' '.join(arguments(name))}`):\n\n"
            f"```text\n{printed.strip()}\n```\n"
        )
    return "\n".join(parts)


def add_sight(report: dict[str, Any]) -> None:
    """Write the figures of a report on held-out scenes onto the card."""
    card = TARGET / "README.md"
    text = card.read_text(encoding="utf-8").partition(SIGHT_HEADING)[0].rstrip()
    card.write_text(f"{text}\n\n{SIGHT_HEADING}\n\n{sight_figures(report)}", encoding="utf-8")


def sight_figures(report: dict[str, Any]) -> str:
    """Return the tables of a report on held-out scenes."""
    metrics = report["metrics"]

    def figure(scoring: str, metric: str) -> str:
        return f"{metrics[f'{scoring}/{metric}']['value']:.3f}"

    lines = [
        "| held out | expressions | cIoU | gIoU | IoU ≥ 0.5 | teacher-forced cIoU | gIoU |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, words in (("scenes", "pairs of things"), ("things", "things")):
        for kind, what in (("refer", "names"), ("spatial", "places"), ("reason", "reasoning")):
            name = f"{row}-{kind}"
            own = [figure(name, m) for m in ("cIoU", "gIoU", "precision@0.5")]
            forced = [figure(f"{name}-forced", m) for m in ("cIoU", "gIoU")]
            lines.append(f"| {words} | {what} | {' | '.join([*own, *forced])} |")
    lines += [
        "",
        "| held out | emission | false emission | answers right | presence of what is near right |",
        "|---|---|---|---|---|",
    ]
    for row, words in (("scenes", "pairs of things"), ("things", "things")):
        rates = [
            figure(f"{row}-asked", "emission_rate"),
            figure(f"{row}-asked", "false_emission_rate"),
            figure(f"{row}-answers", "exact_match"),
            figure(f"{row}-near", "exact_match"),
        ]
        lines.append(f"| {words} | {' | '.join(rates)} |")
    protocol = report["protocol"]
    references = sorted({one["references"]["sha256"] for one in protocol["scorings"]})
    digest = hashlib.sha256("".join(references).encode()).hexdigest()[:12]
    told = (
        "`llmbind eval eval/embedded-sight --data DATA` on drawn scenes with pairs of things that\n"
        "training never saw together, and with things that it never saw: 200 pictures each of\n"
        "three kinds of expressions, 600 wishes for masks as people put them, 200 questions, and\n"
        "200 whether something is there, half of them in vain for what is near: a dog where a cat\n"
        f"is; seed {protocol['seed']}, references sha256 {digest}…. Teacher-forced: the right\n"
        "reply is put into the model's mouth, as LISA and GLaMM score masks.\n\n"
    )
    return told + "\n".join(lines) + "\n"


def arguments(name: str) -> list[str]:
    """Return the command line of a measurement, from the checkout's folder."""
    script, *options = MEASUREMENTS[name][1]
    return [f"benchmarks/{script}", *options]


if __name__ == "__main__":
    main()
