"""A recipe's data sources as dialogues, with an account of what was read or built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmbind_cli.console import console
from llmbind_cli.data.captions import CaptionSets, read_captions
from llmbind_cli.data.conversations import ReadCounts, read_conversations
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.dialogues.builder import KINDS, DialogueBuilder
from llmbind_cli.data.sample import Dialogue
from llmbind_cli.data.talk import read_talk
from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.schema import BuiltDialogues, ConversationFiles
from llmbind_cli.weights.hashes import sha256_file


class SourceReader(Iterator[Dialogue]):
    """The dialogues of one source, one after another.

    When a file or the builder comes to its end, what it gave is logged.

    Args:
        source: The table of the recipe.

    Attributes:
        dialogues: Dialogues read or built so far.
    """

    def __init__(self, source: ConversationFiles | BuiltDialogues) -> None:
        self.dialogues = 0
        self._source = source
        self._read: dict[str, ReadCounts] = {}
        self._builder: DialogueBuilder | None = None
        self._stream = (
            self._files(source) if source.kind == "conversations" else self._build(source)
        )

    def __next__(self) -> Dialogue:
        """Read or build the next dialogue.

        Raises:
            InputDataError: A file is missing or malformed, or gives too little to build from.
            ConfigurationError: The source names a service that is to write its dialogues.
        """
        dialogue = next(self._stream)
        self.dialogues += 1
        return dialogue

    def describe(self) -> dict[str, Any]:
        """Return for the manifest: name, kind, dialogues, file hashes, and what they gave."""
        described: dict[str, Any] = {
            "name": self._source.name,
            "kind": self._source.kind,
            "dialogues": self.dialogues,
            # Names, not folders: where the files lay on one machine means nothing on another.
            "files": {
                name: sha256_file(path)
                for name, path in _distinct_names(source_files(self._source)).items()
            },
        }
        if self._read:
            described["read"] = {name: counts.as_fields() for name, counts in self._read.items()}
        if self._builder is not None:
            described["kinds"] = dict(self._builder.kinds.most_common())
            described["repeats_avoided"] = dict(self._builder.repeats.most_common())
        return described

    def _files(self, source: ConversationFiles) -> Iterator[Dialogue]:
        for name, path in _distinct_names(source.paths).items():
            reader = read_conversations(path)
            self._read[name] = reader.counts
            yield from reader
            console.log(f"{source.name}: {name}: {reader.counts}")

    def _build(self, source: BuiltDialogues) -> Iterator[Dialogue]:
        if source.writer is not None:
            raise ConfigurationError(
                f"{source.name}: a service writes these dialogues; run llmbind train "
                f"--build-data first, and read its file by a source of kind conversations"
            )
        self._builder = open_builder(source)
        yield from self._builder
        repeats = self._builder.repeats.total()
        console.log(
            f"{source.name}: {self.dialogues:,} dialogues built; {repeats:,} repetitions avoided"
        )


def read_source(source: ConversationFiles | BuiltDialogues) -> SourceReader:
    """Open one source; its dialogues are read or built one by one."""
    return SourceReader(source)


def open_builder(source: BuiltDialogues) -> DialogueBuilder:
    """Read the material of a builder source and start building.

    Raises:
        InputDataError: A file is missing or malformed.
    """
    captions = CaptionSets(
        **{
            modality: tuple(caption for path in paths for caption in read_captions(path))
            for modality, paths in source.captions.items()
        }
    )
    talk = [pair for path in source.talk for pair in read_talk(path)]
    return build_dialogues(
        count=source.count,
        seed=source.seed,
        captions=captions,
        talk=talk,
        # In the builder's order, so that the order in a recipe changes nothing.
        kinds={name: source.kinds[name] for name in KINDS if name in source.kinds} or None,
    )


def source_files(source: ConversationFiles | BuiltDialogues) -> list[Path]:
    """Return the files that a source reads; a builder may read none."""
    if isinstance(source, ConversationFiles):
        return list(source.paths)
    captions = [path for group in source.captions.values() for path in group]
    return list(dict.fromkeys([*captions, *source.talk]))


def _distinct_names(paths: list[Path]) -> dict[str, Path]:
    """Name files without their folders; a second file of the same name gets a number."""
    named: dict[str, Path] = {}
    for path in paths:
        name, number = path.name, 2
        while name in named:
            name, number = f"{path.name} ({number})", number + 1
        named[name] = path
    return named
