"""How often a bundle picks the right task, and how much of the request its prompt keeps.

Runs `llmbind generate --plan` on requests that carry their task, and scores what it prints:

    python benchmarks/routing.py [tests/data/requests.jsonl] [--model BUNDLE] [--report FILE.json]

`llmbind_cli.metrics.routing` says what counts as rightly routed, a false call and a kept word.

The requests speak of photos that do not come along. A bundle that sees looks at what is attached,
so a drawn landscape, or `--picture FILE`, stands in for each of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llmbind_cli.metrics.routing import TASKS, RoutingScore, score
from llmbind_cli.nn.device import choose_device, choose_dtype

DEFAULT = Path(__file__).parents[1] / "tests" / "data" / "requests.jsonl"


def with_pictures(requests: Path, folder: Path, picture: Path | None = None) -> Path:
    """Return a file of the same requests, each with a picture that is there if it names one.

    Args:
        requests: Lines of requests.
        folder: Where to write.
        picture: What stands in for a picture that is missing; ``None`` draws a landscape.
    """
    lines = [json.loads(line) for line in requests.read_text().splitlines() if line.strip()]
    if picture is None:
        picture = folder / "landscape.png"
        levels = np.linspace(0, 1, 192)[:, None, None] * np.ones((1, 256, 1))
        sky, field = np.array([120, 170, 230.0]), np.array([90, 150, 70.0])
        drawn = np.where(levels < 0.55, sky + 60 * levels, field - 40 * (levels - 0.55))
        Image.fromarray(drawn.round().astype(np.uint8)).save(picture)
    for line in lines:
        if line.get("image") and not Path(line["image"]).is_file():
            line["image"] = str(picture)
    path = folder / requests.name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan(requests: Path, options: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Run the shipped command; return its lines and the seconds it took."""
    command = [sys.executable, "-m", "llmbind_cli", "generate", "--plan", "--json", *options]
    started = time.monotonic()
    run = subprocess.run(  # noqa: S603
        [*command, "--from", str(requests)], stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)} ended with {run.returncode}")
    seconds = time.monotonic() - started
    return [json.loads(line) for line in run.stdout.splitlines()], seconds


def show(result: RoutingScore) -> str:
    """Return the figures and the confusion table as text."""
    columns, expected = (
        sorted({pair[side] for pair in result.confusion}, key=lambda g: (g not in TASKS, g))
        for side in (1, 0)
    )
    rows = [f"{'expected / got':16}" + "".join(f"{column:>13}" for column in columns)]
    for task in expected:
        counts = [result.confusion.get((task, column), 0) for column in columns]
        rows.append(f"{task:16}" + "".join(f"{count:13}" for count in counts))
    return "\n".join(
        [
            *rows,
            f"routed rightly   {result.accuracy:.1%} of {result.n}",
            f"false calls      {result.false_calls:.1%} of plain talk",
            f"words kept       {result.words_kept:.1%}",
            f"prompts whole    {result.prompts_whole:.1%}",
        ]
    )


def main() -> None:
    """Plan, score, print; with ``--report`` also write the figures with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requests", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--batch-size", default="8")
    parser.add_argument("--picture", type=Path, help="stands in for the requests' photos")
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    content = args.requests.read_bytes()
    requests = [json.loads(line) for line in content.splitlines() if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        asked = with_pictures(args.requests, Path(folder), args.picture)
        lines, seconds = plan(asked, ["--model", args.model, "--batch-size", args.batch_size])
    result = score(requests, lines)
    print(show(result))
    print(f"{seconds:.0f} s; wrong: {' '.join(result.wrong) or 'none'}")
    if args.report:
        fields = vars(result) | {
            "confusion": {f"{task} > {got}": n for (task, got), n in result.confusion.items()},
            "data": {"name": args.requests.name, "sha256": hashlib.sha256(content).hexdigest()},
            "model": next((line["model"] for line in lines if line["model"]), ""),
            "dtype": str(choose_dtype("auto", choose_device("auto"))).removeprefix("torch."),
            "seed": 0,
            "command": f"python benchmarks/routing.py tests/data/{args.requests.name}",
        }
        args.report.write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
