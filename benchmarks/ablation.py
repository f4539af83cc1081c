"""What each part of LoRA-MoE brings: short training runs that differ in one setting, three seeds.

    python benchmarks/ablation.py [--steps 60] [--seeds 0 1 2] [--report FILE.json]

Every run is `llmbind train recipes/embedded.toml` with a few `--set`; its bundle is scored by
`benchmarks/routing.py` on the development requests, of which every `--every`-th is taken. The runs
are far shorter than that of the shipped bundle: compare them with one another only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import routing

ROOT = Path(__file__).parents[1]
REQUESTS = ROOT / "tests" / "data" / "dev_requests.jsonl"
VARIANTS = {
    "top-2 of 4 experts": [],
    "dense gating": ["lora_moe.top_k=0"],
    "no load-balancing loss": ["optim.aux_coefficient=0.0"],
    # One expert of rank 32 with the same α/r; 0.1 % fewer parameters, as there is no router.
    "LoRA of equal size": [
        "lora_moe.num_experts=1",
        "lora_moe.top_k=1",
        "lora_moe.rank=32",
        "lora_moe.alpha=64.0",
    ],
}
HOLDOUT = 0.02
FIGURES = ("accuracy", "false_calls", "words_kept", "loss_holdout", "busiest_expert")


def train(directory: Path, settings: list[str], *, seed: int, steps: int, threads: int) -> Path:
    """Run the shipped command; return the run's folder."""
    dialogues = 2_000
    # The recipe counts in epochs, and an epoch of its mixture has 7 dialogues for every 3 written.
    written = len((ROOT / "recipes" / "data" / "written.jsonl").read_text().splitlines())
    epoch = max(dialogues / 4, written / 3) * 7 * (1 - HOLDOUT)
    common = [
        f"data.0.count={dialogues}",
        f"train.epochs={steps * 16 / epoch:.6f}",
        f"train.seed={seed}",
        "train.log_every=5",
        f"train.holdout={HOLDOUT}",
        f"train.evaluate_every={10 * steps}",
        "train.compile=false",
    ]
    sets = [part for setting in (*common, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "llmbind_cli", "train", str(ROOT / "recipes/embedded.toml")]
    subprocess.run(  # noqa: S603
        [*command, *sets, "--output", str(directory), "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=_environment(threads),
    )
    return directory


def measure(run: Path, requests: Path) -> dict[str, float]:
    """Score a finished run."""
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    options = ["--model", str(run / "bundle"), "--batch-size", "8", "--max-new-tokens", "64"]
    lines, _ = routing.plan(requests, options)
    score = routing.score(rows, lines)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(log) if line.get("router_load"))
    loads = last["router_load"]
    routers = list(loads.values()) if isinstance(loads, dict) else loads
    held_out = [line["loss_holdout"] for line in log if line.get("loss_holdout") is not None]
    return {
        "accuracy": score.accuracy,
        "false_calls": score.false_calls,
        "words_kept": score.words_kept,
        "loss_holdout": held_out[-1] if held_out else math.nan,
        "busiest_expert": statistics.fmean(max(shares) for shares in routers),
    }


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Return means and standard deviations over the seeds, one variant a row."""
    rows = [f"{'variant':24}" + "".join(f"{figure:>20}" for figure in FIGURES)]
    for variant, runs in results.items():
        cells = []
        for figure in FIGURES:
            values = [run[figure] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.3f} ± {spread:.3f}")
        rows.append(f"{variant:24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(rows)


def _environment(threads: int) -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def main() -> None:
    """Train, score and print; a report is written after each run, so nothing measured is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=2, help="take every n-th request")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    lines = REQUESTS.read_text().splitlines()[:: args.every]
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        requests = folder / "requests.jsonl"
        requests.write_text("\n".join(lines) + "\n")
        for seed in args.seeds:
            for number, (variant, settings) in enumerate(VARIANTS.items()):
                run = folder / f"{number}-{seed}"
                train(run, settings, seed=seed, steps=args.steps, threads=args.threads)
                results[variant].append(measure(run, requests))
                print(f"seed {seed}  {variant:24} {results[variant][-1]}", flush=True)
                if args.report:
                    args.report.write_text(json.dumps(report(args, lines, results), indent=2))
    print(table(results))


def report(args: Any, lines: list[str], results: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with their provenance."""
    return {
        "results": results,
        "steps": args.steps,
        "seeds": args.seeds,
        "requests": len(lines),
        "data": {
            "name": REQUESTS.name,
            "sha256": hashlib.sha256(REQUESTS.read_bytes()).hexdigest(),
        },
        "settings": VARIANTS,
        "command": f"python benchmarks/ablation.py --steps {args.steps} --every {args.every}",
    }


if __name__ == "__main__":
    main()
