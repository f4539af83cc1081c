"""Put a trained bundle into the package and write its measured figures onto its model card.

python tools/embedded_bundle/adopt.py runs/embedded/bundle
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "src" / "llmbind_cli" / "bundles" / "embedded"
RESULTS = ROOT / "benchmarks" / "results"
HEADING = "## Measured"
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
        "Routing of hard requests of which not even a score was seen before",
        ["routing.py", "tests/data/unseen_requests.jsonl", "--batch-size", "16"],
    ),
    "plain-talk": (
        "Loss on written replies to plain messages, beside that of the base model",
        ["plain_talk.py"],
    ),
}


def main() -> None:
    """Copy, measure with the shipped commands, complete the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    if TARGET.exists():
        shutil.rmtree(TARGET)
    shutil.copytree(bundle, TARGET)
    for path in TARGET.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    card = TARGET / "README.md"
    text = card.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    card.write_text(f"{text}\n\n{HEADING}\n\n{measured()}", encoding="utf-8")


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
            f"{figures['data']['sha256']}; greedy decoding, seed {figures['seed']}; "
            f"`python {' '.join(arguments(name))}`):\n\n```text\n{printed.strip()}\n```\n"
        )
    return "\n".join(parts)


def arguments(name: str) -> list[str]:
    """Return the command line of a measurement, from the checkout's folder."""
    script, *options = MEASUREMENTS[name][1]
    return [f"benchmarks/{script}", *options]


if __name__ == "__main__":
    main()
