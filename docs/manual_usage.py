"""Writes the output of ``--help`` into the manual pages, or checks that it stands there.

python docs/manual_usage.py            # rewrite the usage blocks
python docs/manual_usage.py --check    # exit 1 and name the pages that differ
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "commands"
USAGE = re.compile(r"(<!-- usage -->\n```text\n)(?:(?!```).*\n)*(```\n)")


def help_text(command: str) -> str:
    """Runs ``llmbind COMMAND --help`` at a width of 80 characters.

    Args:
        command: Name of a subcommand.

    Returns:
        What it writes to stdout.
    """
    environment = os.environ | {
        "COLUMNS": "80",
        "TERMINAL_WIDTH": "80",
        "PYTHONPATH": str(ROOT / "src"),
    }
    arguments = [sys.executable, "-m", "llmbind_cli", command, "--help"]
    run = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    return run.stdout


def main() -> int:
    """Rewrites or checks all pages.

    Returns:
        The exit code.
    """
    check = "--check" in sys.argv[1:]
    stale = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if not USAGE.search(text):
            sys.exit(f"{page}: has no usage block")
        usage = help_text(page.stem).replace("\\", r"\\")
        fresh = USAGE.sub(rf"\g<1>{usage}\g<2>", text)
        if fresh != text:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(fresh, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'differs from --help' if check else 'rewritten'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
