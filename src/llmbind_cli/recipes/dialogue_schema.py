"""``[[data]]`` tables of dialogues: files of them, and those that are built from captions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmbind_cli.recipes.picture_schema import Part
from llmbind_cli.recipes.section import FilePath, Section

CaptionedModality = Literal["image", "video", "audio"]
DialogueKind = Literal[
    "image",
    "video",
    "audio",
    "photo_edit",
    "two_wishes",
    "session",
    "talk",
    "tag_talk",
    "photo_other",
]


class ConversationFiles(Section):
    """``[[data]]`` of kind ``conversations``: files of dialogues in the LLaVA shape.

    Attributes:
        name: Name in logs and in the run manifest.
        kind: ``conversations``.
        paths: JSON or JSON-lines files; a relative path starts at the recipe's folder.
        weight: Share of the epoch, relative to the other sources'; give it to all or to none.
        images: Folders that the records' pictures are looked for in, the first that has one
            counts. Without any, the pictures are not read, and a record that has one says so in
            words only.
        part: What the source counts as where none has a weight: ``vqa`` with ``images`` and
            ``interactive`` without, if not given.
        skip_missing: Leave out and count records whose picture is missing, instead of refusing to
            start.
        stand_ins: Folder of photos, one of which is shown to a model that sees wherever a dialogue
            speaks of a picture that is not there, and in a quarter of the others: it learns that
            not all are to be looked at.
    """

    name: str = Field(min_length=1)
    kind: Literal["conversations"]
    paths: list[FilePath] = Field(min_length=1)
    weight: float | None = Field(default=None, gt=0)
    images: list[FilePath] = Field(default=[])
    part: Part | None = None
    skip_missing: bool = False
    stand_ins: FilePath | None = None

    @model_validator(mode="after")
    def _skips_what_is_looked_for(self) -> Self:
        if self.skip_missing and not self.images:
            raise ValueError(
                "skip_missing needs images, the folders that pictures are looked for in"
            )
        return self


class WriterSection(Section):
    """``[data.writer]``: a chat service that writes dialogues of a builder source.

    Used by ``llmbind train --build-data`` alone.

    Attributes:
        endpoint: Base URL of an OpenAI-compatible service, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        api_key_env: Environment variable that holds the key; none for a service that asks for none.
        mode: ``paraphrase`` rewords what users say; ``write`` has the whole dialogue written.
        share: Share of the dialogues that the service is asked for.
        max_requests: Most requests for this source, those of earlier runs included.
        max_tokens: No request after the service has counted this many tokens, of prompts and
            replies, those of earlier runs included.
        concurrency: Requests at a time.
        timeout_s: Longest wait for one reply.
        retries: How often a request is repeated after a failure that may pass.
    """

    endpoint: str = Field(pattern=r"^https?://[^\s@]+$")
    model: str = Field(min_length=1)
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    mode: Literal["paraphrase", "write"] = "paraphrase"
    share: float = Field(default=1.0, gt=0, le=1)
    max_requests: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    concurrency: int = Field(default=4, ge=1, le=64)
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=4, ge=0, le=20)


class BuiltDialogues(Section):
    """``[[data]]`` of kind ``builder``: dialogues built from captions.

    Attributes:
        name: Name in logs and in the run manifest.
        kind: ``builder``.
        seed: Seed of the builder, apart from that of the training.
        count: Number of dialogues.
        captions: Caption files of each modality, asked for beside the builder's own scenes; a
            relative path starts at the recipe's folder.
        talk: Files of plain requests with their replies, for dialogues that call nothing.
        kinds: Share of each kind of dialogue, relative to the others' and 0 where it is not named;
            the builder's own shares if the table is empty.
        weight: Share of the epoch, relative to the other sources'; give it to all or to none.
        writer: A chat service that rewords the dialogues or writes them anew.
        stand_ins: As for kind ``conversations``.
    """

    name: str = Field(min_length=1)
    kind: Literal["builder"]
    seed: int = Field(default=0, ge=0)
    count: int = Field(ge=1)
    captions: dict[CaptionedModality, list[FilePath]] = Field(default={})
    talk: list[FilePath] = Field(default=[])
    kinds: dict[DialogueKind, Annotated[float, Field(gt=0)]] = Field(default={})
    weight: float | None = Field(default=None, gt=0)
    writer: WriterSection | None = None
    stand_ins: FilePath | None = None
