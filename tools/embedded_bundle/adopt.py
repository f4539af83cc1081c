"""Put a trained bundle into the package and write its measured figures onto its model card.

python tools/embedded_bundle/adopt.py runs/embedded/bundle
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "src" / "llmbind_cli" / "bundles" / "embedded"
HEADING = "## Measured"


def main() -> None:
    """Copy, measure with the shipped command, complete the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    if TARGET.exists():
        shutil.rmtree(TARGET)
    shutil.copytree(bundle, TARGET)
    for path in TARGET.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    report = ROOT / "benchmarks" / "results" / "routing.json"
    report.parent.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "benchmarks" / "routing.py"), "--report", str(report)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    table = run.stdout.rpartition("\n")[0].strip()
    figures = json.loads(report.read_text())
    card = TARGET / "README.md"
    text = card.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    card.write_text(
        f"{text}\n\n{HEADING}\n\n"
        f"Routing of {figures['n']} hand-written requests that training never saw\n"
        f"({figures['data']['name']}, sha256 {figures['data']['sha256']}; greedy decoding, seed "
        f"{figures['seed']}; `{figures['command']}`):\n\n```text\n{table}\n```\n",
        encoding="utf-8",
    )
    print(run.stdout)


if __name__ == "__main__":
    main()
