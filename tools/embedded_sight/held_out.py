"""Writes scenes that training never sees as files that ``llmbind eval`` scores.

For each of the two held-out rows, ``held_out_scenes`` (pairs of things never seen together) and
``held_out_things`` (things never seen at all), into ``OUT/ROW``:

- ``pictures/N.png``
- ``KIND.jsonl`` and ``KIND-masks.jsonl`` for the kinds refer, spatial and reason: the words of one
  thing of each picture, with the reply that teacher forcing takes, and its mask in COCO's run
  lengths
- ``asked.jsonl``: the same wishes as people put them, and questions that words answer, each with
  its ``task``
- ``answers.jsonl``: those questions with their answers
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbind_cli.data.rle import coco_rle
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.arrangements import ArrangementSampler
from llmbind_cli.data.scenes.pictures import SceneRenderer
from llmbind_cli.data.scenes.questions import QuestionKind, SceneQuestions

ROWS = ("held_out_scenes", "held_out_things")
SEED = 1021
_POINTING: tuple[QuestionKind, ...] = ("refer", "spatial", "reason")
_ANSWERED: tuple[QuestionKind, ...] = ("presence", "count", "colour", "name", "relation")


def write_held_out(
    out: Path, world: Any, renderer: SceneRenderer, photos: tuple[Path, ...], *, count: int
) -> None:
    """Write both rows.

    Args:
        out: Folder.
        world: The things.
        renderer: Draws them.
        photos: May stand behind them; those held out do.
        count: Pictures of each kind, and questions with an answer, in each row.
    """
    for row in ROWS:
        sampler = ArrangementSampler(world, SEED, split=row, photos=photos)
        folder = out / row
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        asked: list[dict[str, Any]] = []
        for kind in _POINTING:
            samples = _samples(sampler, renderer, row, (kind,), count)
            asked += _write_pointing(folder, kind, samples)
        questions = list(_samples(sampler, renderer, row, _ANSWERED, count))
        lines = [_line(folder, sample) for sample in questions]
        answers = [
            line | {"answer": sample.turns[1].text}
            for line, sample in zip(lines, questions, strict=True)
        ]
        _write(folder / "answers.jsonl", answers)
        _write(folder / "asked.jsonl", [*asked, *(line | {"task": "text"} for line in lines)])


def _samples(
    sampler: ArrangementSampler,
    renderer: SceneRenderer,
    row: str,
    kinds: tuple[QuestionKind, ...],
    count: int,
) -> Iterator[Sample]:
    asked = SceneQuestions(
        sampler,
        renderer,
        name=f"{row}-{kinds[0]}",
        questions=dict.fromkeys(kinds, 1.0),
        turns=1,
        tied=True,
        held_out_targets=row == "held_out_things" and len(kinds) == 1,
    )
    return (asked[number] for number in range(count))


def _write_pointing(folder: Path, kind: str, samples: Iterator[Sample]) -> list[dict[str, Any]]:
    requests, masks, asked = [], [], []
    for sample in samples:
        line, (segment,) = _line(folder, sample), sample.segments
        requests.append(line | {"prompt": segment.phrase, "reply": sample.turns[1].text})
        masks.append({"id": line["id"], "segmentation": coco_rle(segment.mask.decode())})
        asked.append(line | {"task": "segment"})
    _write(folder / f"{kind}.jsonl", requests)
    _write(folder / f"{kind}-masks.jsonl", masks)
    return asked


def _line(folder: Path, sample: Sample) -> dict[str, Any]:
    """Return a sample's request, and write its picture."""
    name = sample.id.replace("/", "-")
    path = folder / "pictures" / f"{name}.png"
    sample.pictures[0].load().save(path)
    return {"id": name, "prompt": sample.turns[0].text, "image": str(path.resolve())}


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
