"""``llmbind train --build-data``: the dialogues that a recipe's builders make, as files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llmbind_cli.console import console
from llmbind_cli.data.dialogues.builder import DialogueBuilder
from llmbind_cli.data.dialogues.statistics import DialogueCensus, DialogueStatistics
from llmbind_cli.data.dialogues.writer import DialogueWriter
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.dialogue_schema import BuiltDialogues
from llmbind_cli.recipes.load import load_recipe
from llmbind_cli.training.sources import open_builder
from llmbind_cli.weights.atomic import storage_error, write_atomically
from llmbind_cli.weights.file_names import file_stem
from llmbind_cli.weights.lock import exclusive_lock

LOCK_NAME = ".build-data.lock"
JOURNAL = ".writer"


def build_data(
    recipe_path: Path,
    *,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    offline: bool = False,
) -> None:
    """Write the dialogues of every builder source of a recipe into a folder.

    Each source becomes ``NAME.jsonl``, which a source of kind ``conversations`` reads back as the
    same samples, and ``NAME.statistics.json``. Dialogues are streamed: memory holds 64 bits of each
    one and the counts. An earlier file of that name is replaced once the new one is whole.

    Args:
        recipe_path: The TOML recipe.
        overrides: ``key=value`` settings over it.
        output: Folder in place of ``output.dir``.
        offline: Ask no service; use what it answered in earlier runs.

    Raises:
        ConfigurationError: The recipe is wrong, or has no builder source.
        InputDataError: Captions or talk are malformed, or too few for so many dialogues.
        UnavailableError: A service is to write, and the package that talks to it is missing.
        TemporaryError: The service fails; its answers are kept, and a rerun goes on from there.
        OutputError: The folder cannot be written.
        StorageError: The disk is full or failing.
        LockHeldError: Another run builds into the same folder.
    """
    recipe = load_recipe(recipe_path, overrides=overrides)
    sources = [source for source in recipe.data if isinstance(source, BuiltDialogues)]
    if not sources:
        raise ConfigurationError(f'{recipe_path}: has no data source of kind "builder" to build')
    _check_names(sources)
    directory = output or recipe.output.dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(directory, error) from error
    with exclusive_lock(directory / LOCK_NAME):
        for source in sources:
            report = _write_source(source, directory, offline=offline)
            text = json.dumps(report, ensure_ascii=False)
            console.result(text if console.json else str(report["path"]))


def _check_names(sources: Sequence[BuiltDialogues]) -> None:
    """Refuse a source whose file would be the journal of another one."""
    names = {source.name for source in sources}
    for source in sources:
        if source.writer is not None and f"{source.name}{JOURNAL}" in names:
            raise ConfigurationError(
                f"data: {source.name}{JOURNAL}.jsonl is the journal of {source.name}; give the "
                f"source of that name another one"
            )


def _write_source(source: BuiltDialogues, directory: Path, *, offline: bool) -> dict[str, Any]:
    """Write one source's files and return what the JSON line says."""
    stem = file_stem(source.name)
    path = directory / f"{stem}.jsonl"
    started = time.monotonic()
    builder = open_builder(source)
    census = DialogueCensus()
    digest = hashlib.sha256()

    def stream(dialogues: Iterable[Dialogue]) -> None:
        def write(file: BinaryIO) -> None:
            for line in _lines(dialogues, census):
                digest.update(line)
                file.write(line)

        write_atomically(path, write)

    bar = console.progress(total=source.count, desc=source.name, unit="dialogue")
    written: dict[str, Any] | None = None
    with bar:
        if source.writer is None:
            stream(_shown(builder, bar))
        else:
            journal = directory / f"{stem}{JOURNAL}.jsonl"
            with DialogueWriter(source.writer, builder, journal, offline=offline) as writer:
                stream(_shown(writer, bar))
                written = writer.counts.as_fields()
    seconds = time.monotonic() - started
    statistics = census.statistics()
    report = {
        "source": source.name,
        "path": str(path),
        "dialogues": statistics.dialogues,
        "sha256": digest.hexdigest(),
        "seconds": round(seconds, 2),
        "dialogues_per_minute": round(60 * statistics.dialogues / seconds),
        "kinds": dict(builder.kinds.most_common()),
        "repeats_avoided": dict(builder.repeats.most_common()),
        "statistics": statistics.as_fields(),
        "writer": written,
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_atomically(directory / f"{stem}.statistics.json", lambda file: file.write(text.encode()))
    for line in _table(report, statistics, builder):
        console.log(line)
    return report


def _lines(dialogues: Iterable[Dialogue], census: DialogueCensus) -> Iterator[bytes]:
    for dialogue in dialogues:
        census.add(dialogue)
        yield json.dumps(dialogue.as_record(), ensure_ascii=False).encode() + b"\n"


def _shown(dialogues: Iterable[Dialogue], bar: Any) -> Iterator[Dialogue]:
    for dialogue in dialogues:
        yield dialogue
        bar.update()


def _table(
    report: dict[str, Any], statistics: DialogueStatistics, builder: DialogueBuilder
) -> Iterator[str]:
    """Yield the lines that tell a person what was built."""
    total_calls = sum(statistics.calls.values())
    share = {task: count / total_calls for task, count in statistics.calls.items()}
    rows = [
        ("dialogues", f"{statistics.dialogues:,} in {report['seconds']:,} s"),
        ("a minute", f"{report['dialogues_per_minute']:,}"),
        ("user turns", f"{statistics.turns:,}"),
        ("turns each", _listed(statistics.lengths)),
        ("kinds", _listed(dict(builder.kinds.most_common()))),
        ("calls", ", ".join(f"{t} {n:,} ({share[t]:.1%})" for t, n in statistics.calls.items())),
        ("several calls", f"{statistics.several_calls:,} replies"),
        ("pictures", f"{statistics.pictures:,} dialogues with one attached"),
        ("task tags", f"{statistics.user_tags:,} in user turns, where they are text"),
        ("cut replies", f"{statistics.cut_replies:,}"),
        ("repetitions", f"{builder.repeats.total():,} avoided: {_listed(builder.repeats)}"),
        ("openings", f"{statistics.distinct_openings:,} different"),
        ("most frequent", ", ".join(f"{o!r} {n:,}" for o, n in statistics.openings[:5])),
    ]
    for n, (different, _) in enumerate(statistics.ngrams, start=1):
        rows.append((f"{n}-grams", f"{different:,} different ({statistics.distinct(n):.1%})"))
    if report["writer"] is not None:
        rows.append(("service", _listed(report["writer"])))
    rows.append(("sha256", report["sha256"]))
    yield f"{report['source']}: {report['path']}"
    yield from (f"  {name:<14}{value}" for name, value in rows)


def _listed(counts: dict[Any, Any]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in counts.items() if value) or "none"
