"""LISA (arXiv 2308.00692, dvlab-research/LISA 3cb2d43) as a bundle that ``segment`` can run.

A merged LISA checkpoint holds the language model under ``model.`` and ``lm_head.``, the projector
of its LLaVA under ``model.mm_projector.``, the projection of the ``[SEG]`` state under
``model.text_hidden_fcs.0.``, and Segment Anything, in its own layout, under
``model.visual_model.``. CLIP is named by its configuration and not held.

The bundle adds a LoRA-MoE whose experts are zero, so it answers as LISA does and can be trained on.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmbind_cli.errors import IntegrityError, ModelNotFoundError
from llmbind_cli.model.bound_model import BoundModel
from llmbind_cli.model.chat_format import VICUNA_TEMPLATE
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.config import BaseModel, BundleConfig, SightConfig, VisionNetwork
from llmbind_cli.model.importers.segment_anything import sam_config_of, to_transformers
from llmbind_cli.model.language_model import load_language_model, load_tokenizer
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig, inject_lora_moe
from llmbind_cli.model.token_rows import INPUT_ROWS, OUTPUT_ROWS, attach_token_rows, is_tied
from llmbind_cli.model.vision.loading import load_sight
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.tokens import Payload, TaskToken, register_task_tokens
from llmbind_cli.weights import cache
from llmbind_cli.weights.hashes import check_safetensors

SEGMENT_TOKEN = "[SEG]"
IMAGE_MARKS = ("<im_start>", "<im_end>")
SEGMENT_PROMPT = "{} Please output segmentation mask."
"""How LISA asks for a mask of what a sentence describes (``utils/utils.py``)."""

CHAT_TEMPLATE = VICUNA_TEMPLATE.replace("curious user", "curious human").replace(
    "the user's", "the human's"
)
"""LLaVA's first conversation format (``model/llava/conversation.py``, ``conv_llava_v1``)."""

_SAM = "model.visual_model."
_PROJECTOR = "model.mm_projector."
_PROJECTION = "model.text_hidden_fcs.0."
_LANGUAGE = re.compile(r"^(lm_head|model\.(embed_tokens|layers|norm))\.")
_PARTS = "parts"
_NOT_OF_LLAMA = re.compile(
    r"(mm_|tune_|freeze_|use_mm|image_|pretrain_|vision_|out_dim|train_mask|model_type|"
    r"architectures|auto_map|torch_dtype)"
)


def import_lisa(
    source: Path,
    out: Path,
    *,
    vision_tower: str,
    vision_tower_sha256: str | None = None,
    name: str = "lisa",
    licences: Mapping[str, str] | None = None,
) -> Path:
    """Turn a merged LISA checkpoint into a bundle.

    Args:
        source: Folder with ``config.json``, the tokenizer and safetensors files.
        out: Folder for ``bundle/`` and, beside it, ``parts/``: language model and Segment Anything
            in transformers layout, which the bundle names by relative paths.
        vision_tower: Source of the CLIP that its configuration names
            (``openai/clip-vit-large-patch14``).
        vision_tower_sha256: Hash that pins it; the one found is recorded where none is given.
        name: Name of the bundle.
        licences: Part → licence.

    Returns:
        The bundle's folder.

    Raises:
        ModelNotFoundError: There is no checkpoint, or no CLIP.
        IntegrityError: A part is missing, or has other shapes than the rest calls for.
    """
    fields = _fields(source)
    files = _Tensors(source)
    base = _write_base(files, fields, source, out / _PARTS / "base")
    sam = _write_sam(files, out / _PARTS / "grounding")
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = CHAT_TEMPLATE
    seg_id = tokenizer.convert_tokens_to_ids(SEGMENT_TOKEN)
    known = tokenizer.get_vocab()
    if SEGMENT_TOKEN not in known:
        raise IntegrityError(f"{source}: the tokenizer has no {SEGMENT_TOKEN}")
    token = TaskToken(
        task="segment",
        open=SEGMENT_TOKEN,
        close=None,
        payload=Payload.HIDDEN_STATE,
        init_words=(" mask",),
    )
    table = register_task_tokens(tokenizer, [token])
    if table.ids != {SEGMENT_TOKEN: seg_id}:
        raise IntegrityError(f"{source}: {SEGMENT_TOKEN} moved from id {seg_id} to {table.ids}")
    device = torch.device("cpu")
    language_model = load_language_model(base, device=device, dtype="float32")
    hidden_size = int(language_model.config.hidden_size)
    projector = _projector_state(files)
    sight_config = SightConfig(
        vision_tower=VisionNetwork(
            family="clip",
            source=vision_tower,
            sha256=vision_tower_sha256,
            side_px=_clip_side(vision_tower, vision_tower_sha256),
            fit="crop",
            layer=int(fields.get("mm_vision_select_layer", -2)),
        ),
        grounding_encoder=VisionNetwork(
            family="sam",
            source=str(sam),
            sha256=None,
            side_px=sam_config_of(files.named(_SAM)).vision_config.image_size,
            fit="corner",
        ),
        projector_layers=sum(key.endswith("weight") for key in projector),
        image_marks=IMAGE_MARKS if all(mark in known for mark in IMAGE_MARKS) else (),
        segment_prompt=SEGMENT_PROMPT,
    )
    sight = load_sight(
        sight_config,
        bundle=None,
        hidden_size=hidden_size,
        tasks=["segment"],
        device=device,
        dtype=torch.float32,
        seed=0,
    )
    _take_heads(sight, projector | _projection_state(files), source)
    model = _bind(language_model, tokenizer, table, base, sight)
    model.config = _config(
        model, name=name, sight=sight_config, licences=dict(licences or {}), base=base, sam=sam
    )
    save_bundle(model, out / "bundle", card=_card(name, source))
    return out / "bundle"


class _Tensors:
    """The tensors of a folder's safetensors files, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._place: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            check_safetensors(path)
            with safe_open(path, framework="pt") as file:
                self._place |= dict.fromkeys(file.keys(), path)
        if not self._place:
            raise ModelNotFoundError(
                f"{folder}: holds no safetensors file; pickled weights have to be converted first"
            )

    def named(self, prefix: str) -> dict[str, Tensor]:
        """Return all tensors below a prefix, without it."""
        return {
            name.removeprefix(prefix): self.read(name)
            for name in self._place
            if name.startswith(prefix)
        }

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        with safe_open(self._place[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def by_file(self, wanted: re.Pattern[str]) -> Iterator[dict[str, Tensor]]:
        """Yield the tensors of names that match, those of one file at a time."""
        for path in sorted(set(self._place.values())):
            names = [n for n, p in self._place.items() if p == path and wanted.match(n)]
            if names:
                yield {name: self.read(name) for name in names}


def _fields(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(f"{source}: no checkpoint here (config.json is missing)")
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields


def _write_base(files: _Tensors, fields: dict[str, Any], source: Path, folder: Path) -> Path:
    """Write the language model in the layout of a Llama, shard by shard, with the tokenizer."""
    from transformers import LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in fields.items() if not _NOT_OF_LLAMA.match(key)}
    shards = sum(1 for _ in files.by_file(_LANGUAGE))
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(files.by_file(_LANGUAGE), 1):
        name = "model.safetensors"
        if shards > 1:
            name = f"model-{number:05}-of-{shards:05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        if "model.embed_tokens.weight" in tensors:
            own["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    if not weight_map:
        raise IntegrityError(f"{source}: holds no language model")
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    LlamaConfig(**own).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


def _write_sam(files: _Tensors, folder: Path) -> Path:
    """Write Segment Anything in transformers layout; every tensor must find its place."""
    from transformers import SamModel

    tensors = files.named(_SAM)
    config = sam_config_of(tensors)
    model = SamModel(config)
    renamed = {name: tensor.float() for name, tensor in to_transformers(tensors).items()}
    shared = "shared_image_embedding.positional_embedding"
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = renamed[shared]
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        raise IntegrityError(f"the checkpoint's Segment Anything does not load: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return folder


def _clip_side(source: str, sha256: str | None) -> int:
    from transformers import AutoConfig

    folder = cache.resolve(source, sha256=sha256)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return int(getattr(config, "vision_config", config).image_size)


def _projector_state(files: _Tensors) -> dict[str, Tensor]:
    """Return the projector's tensors: one linear layer, or the two of a perceptron."""
    found = files.named(_PROJECTOR)
    names = {"weight": "linear_1.weight", "bias": "linear_1.bias"}
    names |= {f"0.{part}": f"linear_1.{part}" for part in ("weight", "bias")}
    names |= {f"2.{part}": f"linear_2.{part}" for part in ("weight", "bias")}
    if not found or not found.keys() <= names.keys():
        raise IntegrityError(f"{_PROJECTOR}*: expected one or two linear layers, got {set(found)}")
    return {f"projector.{names[name]}": tensor for name, tensor in found.items()}


def _projection_state(files: _Tensors) -> dict[str, Tensor]:
    found = files.named(_PROJECTION)
    names = {f"0.{part}": f"linear_1.{part}" for part in ("weight", "bias")}
    names |= {f"2.{part}": f"linear_2.{part}" for part in ("weight", "bias")}
    if found.keys() != names.keys():
        raise IntegrityError(f"{_PROJECTION}*: expected {sorted(names)}, got {sorted(found)}")
    return {f"prompt_projection.{names[name]}": tensor for name, tensor in found.items()}


@torch.no_grad()
def _take_heads(sight: Sight, tensors: Mapping[str, Tensor], source: Path) -> None:
    heads = sight.heads()
    for name, tensor in tensors.items():
        if name not in heads or heads[name].shape != tensor.shape:
            shape = tuple(heads[name].shape) if name in heads else "none"
            raise IntegrityError(f"{source}: {name} is {tuple(tensor.shape)}, expected {shape}")
        heads[name].copy_(tensor)


def _bind(language_model: Any, tokenizer: Any, table: Any, base: Path, sight: Sight) -> BoundModel:
    """Attach the row of the token and a LoRA-MoE without effect."""
    (seg_id,) = table.ids.values()
    matrices = {INPUT_ROWS: language_model.get_input_embeddings().weight}
    vocab_size = len(matrices[INPUT_ROWS])
    if not is_tied(language_model):
        matrices[OUTPUT_ROWS] = language_model.get_output_embeddings().weight
    rows = {part: matrix.detach()[[seg_id]].float() for part, matrix in matrices.items()}
    cache.resolve(str(base))
    pin = cache.digest_of(str(base))
    inject_lora_moe(language_model, LoraMoeConfig(base_model_sha256=pin))
    attach_token_rows(language_model, table, rows)
    return BoundModel(
        config=BundleConfig(
            name="unsaved",
            language_model=BaseModel(
                source=str(base),
                sha256=pin,
                vocab_size=vocab_size,
                hidden_size=int(language_model.config.hidden_size),
            ),
            tokens=table.tokens,
            token_ids=table.ids,
        ),
        tokenizer=tokenizer,
        language_model=language_model,
        token_table=table,
        fingerprint="unsaved",
        sight=sight,
    )


def _config(
    model: BoundModel,
    *,
    name: str,
    sight: SightConfig,
    licences: dict[str, str],
    base: Path,
    sam: Path,
) -> BundleConfig:
    """Name the parts by where they lie from the bundle, with their hashes."""
    grounding = sight.grounding_encoder
    if grounding is None:
        raise ValueError("LISA has a grounding encoder")
    tower = sight.vision_tower
    return dataclasses.replace(
        model.config,
        name=name,
        licences=licences,
        language_model=dataclasses.replace(
            model.config.language_model, source=f"../{_PARTS}/{base.name}"
        ),
        sight=dataclasses.replace(
            sight,
            vision_tower=dataclasses.replace(
                tower, sha256=tower.sha256 or cache.digest_of(tower.source)
            ),
            grounding_encoder=dataclasses.replace(
                grounding,
                source=f"../{_PARTS}/{sam.name}",
                sha256=cache.digest_of(grounding.source),
            ),
        ),
        training={"imported": "LISA (arXiv 2308.00692)"},
    )


def _card(name: str, source: Path) -> str:
    return f"""# {name}

LISA (arXiv 2308.00692), imported from the checkpoint in `{source.name}`. Language model and Segment
Anything lie in `../{_PARTS}`; CLIP is named in `llmbind.json`. A LoRA-MoE whose experts are zero
stands ready to be trained. Nothing was measured after the import.
"""
