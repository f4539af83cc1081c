"""A recipe's data sources as dialogues, with an account of what was read or built."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from llmbind_cli.console import console
from llmbind_cli.data.captions import CaptionSets, read_captions
from llmbind_cli.data.conversations import ReadCounts, read_conversations
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.dialogues.builder import KINDS, DialogueBuilder
from llmbind_cli.data.pictured import PicturedDialogues, StandIns
from llmbind_cli.data.sample import Dialogue, Sample
from llmbind_cli.data.talk import read_talk
from llmbind_cli.errors import ConfigurationError
from llmbind_cli.recipes.dialogue_schema import BuiltDialogues, ConversationFiles
from llmbind_cli.recipes.picture_schema import MaskedSource
from llmbind_cli.recipes.schema import Source
from llmbind_cli.training.picture_sources import PictureSamples
from llmbind_cli.weights.hashes import sha256_file

_LISTED = 20
"""Files of a source that the manifest lists one by one."""


class SourceReader(Iterator[Dialogue]):
    """The dialogues of one source, one after another; those about pictures are samples.

    When a file or the builder comes to its end, what it gave is logged.

    Args:
        source: The table of the recipe.
        left_out: Names of pictures that nothing is to be said of.

    Attributes:
        name: The source's name.
        dialogues: Dialogues read or built so far.
        dropped: Dialogues about pictures that are left out.
        skipped: Dialogues or pictures left out because a picture is missing.
    """

    def __init__(self, source: Source, *, left_out: Collection[str] = ()) -> None:
        self.name = source.name
        self.dialogues = 0
        self.dropped = 0
        self.skipped = 0
        self._source = source
        self._left_out = left_out
        self._read: dict[str, ReadCounts] = {}
        self._builder: DialogueBuilder | None = None
        self._pictures: PictureSamples | None = None
        self._stand_ins: StandIns | None = None
        self._stream = self._opened(source)

    def __next__(self) -> Dialogue:
        """Read or build the next dialogue.

        Raises:
            InputDataError: A file or picture is missing or malformed, or gives too little to build
                from.
            ConfigurationError: The source names a service that is to write its dialogues.
        """
        for dialogue in self._stream:
            if self._left_out and isinstance(dialogue, Sample) and self._is_left_out(dialogue):
                self.dropped += 1
                continue
            self.dialogues += 1
            return dialogue if self._stand_ins is None else self._stand_ins(dialogue)
        raise StopIteration

    def describe(self) -> dict[str, Any]:
        """Return for the manifest: name, kind, dialogues, file hashes, and what they gave."""
        described: dict[str, Any] = {
            "name": self._source.name,
            "kind": self._source.kind,
            "dialogues": self.dialogues,
            "files": self._hashes(),
        }
        if self._read:
            described["read"] = {name: counts.as_fields() for name, counts in self._read.items()}
        if self._builder is not None:
            described["kinds"] = dict(self._builder.kinds.most_common())
            described["repeats_avoided"] = dict(self._builder.repeats.most_common())
        if self._pictures is not None:
            described["pictures"] = self._pictures.counts
        if self.skipped:
            described["pictures_missing"] = self.skipped
        if self.dropped:
            described["dropped_for_evaluation"] = self.dropped
        return described

    def _is_left_out(self, sample: Sample) -> bool:
        return any(
            key in self._left_out
            for picture in sample.pictures
            for key in (picture.key, *(file.key for file in picture.files()))
        )

    def _hashes(self) -> dict[str, str]:
        """Return name → hash of the source's files; of very many, one hash for all.

        Names, not folders: where the files lay on one machine means nothing on another.
        """
        files = source_files(self._source) if self._pictures is None else self._pictures.files
        hashes = {name: sha256_file(path) for name, path in _distinct_names(list(files)).items()}
        if len(hashes) <= _LISTED:
            return hashes
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
        return {f"{len(hashes):,} files": hashlib.sha256(lines.encode()).hexdigest()}

    def _opened(self, source: Source) -> Iterator[Dialogue]:
        if not isinstance(source, MaskedSource) and source.stand_ins is not None:
            self._stand_ins = StandIns(source.name, source.stand_ins)
        if isinstance(source, ConversationFiles):
            return self._files(source)
        if isinstance(source, BuiltDialogues):
            return self._build(source)
        return self._masked(source)

    def _files(self, source: ConversationFiles) -> Iterator[Dialogue]:
        for name, path in _distinct_names(source.paths).items():
            reader = read_conversations(path)
            self._read[name] = reader.counts
            if source.images:
                pictured = PicturedDialogues(
                    source.name, reader, source.images, skip_missing=source.skip_missing
                )
                yield from pictured
                self.skipped += len(pictured.missing)
            else:
                yield from reader
            console.log(f"{source.name}: {name}: {reader.counts}")
        if self.skipped:
            console.warn(f"{source.name}: {self.skipped:,} pictures are missing and left out")

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

    def _masked(self, source: MaskedSource) -> Iterator[Dialogue]:
        self._pictures = PictureSamples(source)
        yield from self._pictures
        self.skipped = self._pictures.counts.get("missing", 0)
        if self.skipped:
            console.warn(f"{source.name}: {self.skipped:,} pictures are missing and left out")
        console.log(f"{source.name}: {self._pictures.told}")


def read_source(source: Source, *, left_out: Collection[str] = ()) -> SourceReader:
    """Open one source; its dialogues are read or built one by one.

    Args:
        source: The table of the recipe.
        left_out: Names of pictures that nothing is to be said of.
    """
    return SourceReader(source, left_out=left_out)


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


def source_files(source: Source) -> list[Path]:
    """Return the files that a source names one by one; a builder may name none."""
    if isinstance(source, ConversationFiles):
        return list(source.paths)
    if not isinstance(source, BuiltDialogues):
        return []
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
