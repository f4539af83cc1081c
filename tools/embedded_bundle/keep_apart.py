"""Take out of written dialogues what comes near a request that the bundle is measured on.

    python tools/embedded_bundle/keep_apart.py DIALOGUES.jsonl OUT.jsonl

A human turn is near a test request if it shares half of the content words of the one that has
fewer of them, three at least, or two different runs of five words. The test files of `tests/data`
are read here and nowhere else before the measurement.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests" / "data"
FEWEST, SHARE, RUN, RUNS = 3, 0.5, 5, 2
_SMALL = frozenset(
    """a an and any are as at be but by can could did do does for from get give go had has have he
    her him his how i if in into is it its just like let make me my need no not now of off on one or
    our out over please she so some something that the their them then there these they thing this
    those to too up us very want was we were what when where which who why will with would you your
    picture photo image drawing draw video clip film sound audio song music edit new old little big
    show create more all about really know think see hear look im ive dont""".split()  # noqa: SIM905
)


class Wording:
    """The words of one request, to be compared with those of another."""

    def __init__(self, text: str) -> None:
        words = re.findall(r"[a-z0-9]+", text.lower().replace("'", "").replace("’", ""))
        self.content = {word for word in words if len(word) > 2} - _SMALL
        self.runs = {tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)}

    def is_near(self, other: Wording) -> bool:
        """Tell whether two requests say nearly the same."""
        fewer = min(len(self.content), len(other.content))
        shared = len(self.content & other.content)
        alike = shared >= max(FEWEST, SHARE * fewer)
        return alike or len(self.runs & other.runs) >= RUNS


def test_requests() -> list[Wording]:
    """Return the wordings of all requests and messages in `tests/data`, development ones too."""
    texts = []
    for path in sorted(TESTS.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts.append(row["prompt"])
            texts += [turn["value"] for turn in row.get("history", []) if turn["from"] == "human"]
    return [Wording(text) for text in texts]


def main() -> None:
    """Copy the dialogues that stay; say how many went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dialogues", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    tests = test_requests()
    lines = arguments.dialogues.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        turns = json.loads(line)["conversations"]
        asked = [Wording(turn["value"]) for turn in turns if turn["from"] == "human"]
        if not any(wording.is_near(test) for wording in asked for test in tests):
            kept.append(line)
    arguments.out.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    sys.stderr.write(f"{len(kept)} kept, {len(lines) - len(kept)} near a test request\n")


if __name__ == "__main__":
    main()
