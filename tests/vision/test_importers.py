"""LLaVA-1.5 as a base, and LISA as a bundle: small random checkpoints under the published keys."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_language_models import SIZES
from tiny_tokenizers import byte_level
from tiny_vision import clip_config, picture, save_clip
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llmbind_cli import app
from llmbind_cli.errors import IntegrityError, ModelNotFoundError
from llmbind_cli.model.build import build_model
from llmbind_cli.model.chat_format import IMAGE_ID, ChatTurn, encode_chat
from llmbind_cli.model.config import BundleConfig, SightConfig, VisionNetwork
from llmbind_cli.model.importers.lisa import import_lisa
from llmbind_cli.model.importers.segment_anything import sam_config_of, to_transformers
from llmbind_cli.model.loader import load_model
from llmbind_cli.model.lora_moe_adapter import LoraMoeConfig
from llmbind_cli.model.prompt_reading import number_images
from llmbind_cli.tokens import encode_user_text

WIDTH = SIZES["hidden_size"]


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """A LLaVA-1.5 in llava-hf's layout, with a tokenizer that knows ``<image>``."""
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = byte_level()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=clip_config(),
            text_config=LlamaConfig(**SIZES, vocab_size=len(tokenizer) + 8),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    ).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_llava_is_base_tower_and_projector_at_once(llava):
    """Hidden states of a conversation with a picture are those of LLaVA's own model."""
    config = SightConfig(
        vision_tower=VisionNetwork(
            family="clip", source=str(llava), sha256=None, side_px=28, fit="pad", layer=-2
        )
    )
    model = build_model(
        name="tiny",
        base=str(llava),
        base_sha256=None,
        tasks=["image"],
        adapter=LoraMoeConfig(r=2),
        licences={},
        sight=config,
        device="cpu",
        dtype="float32",
    )
    own = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    image = picture(40, 30)
    ids = encode_chat(
        model.tokenizer,
        [ChatTurn(role="user", content="what is it?", num_images=1)],
        model.token_table,
        add_generation_prompt=True,
        slot=model.image_slot,
    ).ids
    place = own.config.image_token_index
    with torch.no_grad():
        (seen,) = model.pictures.embeddings([image])
        numbered, table = number_images([ids], [[seen]])
        states = model.decoder(
            inputs_embeds=model.embed(torch.tensor(numbered), table)
        ).last_hidden_state
        expected = own.model(
            input_ids=torch.tensor([[place if i == IMAGE_ID else i for i in ids]]),
            pixel_values=model.sight.tower.preprocessing(image)[None],
        ).last_hidden_state
    # float32, the same operations
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


def test_a_llava_s_own_tag_typed_by_a_user_stays_text(llava):
    from llmbind_cli.model.language_model import load_tokenizer

    tokenizer = load_tokenizer(llava)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert image_id not in encode_user_text(tokenizer, "an <image> tag")


HIDDEN, OUT, GRID, HEADS, MLP, WINDOW, PROMPT = 16, 8, 4, 2, 32, 2, 16


def sam_shapes() -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors of ``Sam`` (facebookresearch/segment-anything, ``sam.py``)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    shapes["image_encoder.pos_embed"] = (1, GRID, GRID, HIDDEN)
    shapes["image_encoder.patch_embed.proj.weight"] = (HIDDEN, 3, 16, 16)
    shapes["image_encoder.patch_embed.proj.bias"] = (HIDDEN,)
    for number in range(3):
        block = f"image_encoder.blocks.{number}"
        extent = GRID if number == 1 else WINDOW  # block 1 attends everywhere
        norm(f"{block}.norm1", HIDDEN)
        shapes[f"{block}.attn.rel_pos_h"] = (2 * extent - 1, HIDDEN // HEADS)
        shapes[f"{block}.attn.rel_pos_w"] = (2 * extent - 1, HIDDEN // HEADS)
        linear(f"{block}.attn.qkv", HIDDEN, 3 * HIDDEN)
        linear(f"{block}.attn.proj", HIDDEN, HIDDEN)
        norm(f"{block}.norm2", HIDDEN)
        linear(f"{block}.mlp.lin1", HIDDEN, MLP)
        linear(f"{block}.mlp.lin2", MLP, HIDDEN)
    shapes["image_encoder.neck.0.weight"] = (PROMPT, HIDDEN, 1, 1)
    norm("image_encoder.neck.1", PROMPT)
    shapes["image_encoder.neck.2.weight"] = (PROMPT, PROMPT, 3, 3)
    norm("image_encoder.neck.3", PROMPT)
    shapes["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = (2, PROMPT // 2)
    for number in range(4):
        shapes[f"prompt_encoder.point_embeddings.{number}.weight"] = (1, PROMPT)
    shapes["prompt_encoder.not_a_point_embed.weight"] = (1, PROMPT)
    shapes["prompt_encoder.no_mask_embed.weight"] = (1, PROMPT)
    shapes["prompt_encoder.mask_downscaling.0.weight"] = (4, 1, 2, 2)
    shapes["prompt_encoder.mask_downscaling.0.bias"] = (4,)
    norm("prompt_encoder.mask_downscaling.1", 4)
    shapes["prompt_encoder.mask_downscaling.3.weight"] = (16, 4, 2, 2)
    shapes["prompt_encoder.mask_downscaling.3.bias"] = (16,)
    norm("prompt_encoder.mask_downscaling.4", 16)
    shapes["prompt_encoder.mask_downscaling.6.weight"] = (PROMPT, 16, 1, 1)
    shapes["prompt_encoder.mask_downscaling.6.bias"] = (PROMPT,)

    def attention(name: str, inner: int) -> None:
        for part in ("q_proj", "k_proj", "v_proj"):
            linear(f"{name}.{part}", PROMPT, inner)
        linear(f"{name}.out_proj", inner, PROMPT)

    for number in range(2):
        layer = f"mask_decoder.transformer.layers.{number}"
        attention(f"{layer}.self_attn", PROMPT)
        attention(f"{layer}.cross_attn_token_to_image", PROMPT // 2)
        attention(f"{layer}.cross_attn_image_to_token", PROMPT // 2)
        linear(f"{layer}.mlp.lin1", PROMPT, 24)
        linear(f"{layer}.mlp.lin2", 24, PROMPT)
        for which in range(1, 5):
            norm(f"{layer}.norm{which}", PROMPT)
    attention("mask_decoder.transformer.final_attn_token_to_image", PROMPT // 2)
    norm("mask_decoder.transformer.norm_final_attn", PROMPT)
    shapes["mask_decoder.iou_token.weight"] = (1, PROMPT)
    shapes["mask_decoder.mask_tokens.weight"] = (4, PROMPT)
    shapes["mask_decoder.output_upscaling.0.weight"] = (PROMPT, PROMPT // 4, 2, 2)
    shapes["mask_decoder.output_upscaling.0.bias"] = (PROMPT // 4,)
    norm("mask_decoder.output_upscaling.1", PROMPT // 4)
    shapes["mask_decoder.output_upscaling.3.weight"] = (PROMPT // 4, PROMPT // 8, 2, 2)
    shapes["mask_decoder.output_upscaling.3.bias"] = (PROMPT // 8,)
    for number in range(4):
        head = f"mask_decoder.output_hypernetworks_mlps.{number}.layers"
        linear(f"{head}.0", PROMPT, PROMPT)
        linear(f"{head}.1", PROMPT, PROMPT)
        linear(f"{head}.2", PROMPT, PROMPT // 8)
    linear("mask_decoder.iou_prediction_head.layers.0", PROMPT, 12)
    linear("mask_decoder.iou_prediction_head.layers.1", 12, 12)
    linear("mask_decoder.iou_prediction_head.layers.2", 12, 4)
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: 0.3 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def test_segment_anything_s_keys_become_those_of_transformers():
    from transformers import SamModel

    original = drawn(sam_shapes())
    config = sam_config_of(original)
    assert config.vision_config.global_attn_indexes == [1]
    assert (config.vision_config.window_size, config.vision_config.image_size) == (WINDOW, 64)
    model = SamModel(config)
    renamed = to_transformers(original)
    shared = renamed["shared_image_embedding.positional_embedding"]
    renamed["prompt_encoder.shared_embedding.positional_embedding"] = shared
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert (missing, unexpected) == ([], [])
    with pytest.raises(IntegrityError, match=r"lacks 'image_encoder\.pos_embed'"):
        sam_config_of({n: t for n, t in original.items() if n != "image_encoder.pos_embed"})


@pytest.fixture
def lisa(tmp_path):
    """A merged LISA: the language model, projector, projection and Segment Anything."""
    folder = tmp_path / "lisa"
    folder.mkdir()
    tokenizer = byte_level()
    tokenizer.add_tokens("[SEG]")  # as LISA does: an added token that is not special
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    language = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=len(tokenizer)))
    tensors = dict(language.state_dict())
    tensors |= drawn(
        {"model.mm_projector.weight": (WIDTH, 16), "model.mm_projector.bias": (WIDTH,)}
    )
    projection = {"0.weight": (WIDTH, WIDTH), "0.bias": (WIDTH,)}
    projection |= {"2.weight": (PROMPT, WIDTH), "2.bias": (PROMPT,)}
    tensors |= drawn({f"model.text_hidden_fcs.0.{n}": s for n, s in projection.items()}, 3)
    tensors |= {f"model.visual_model.{n}": t for n, t in drawn(sam_shapes(), 4).items()}
    # Two files, as large checkpoints have them.
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        chosen = {n: tensors[n].contiguous().clone() for n in part}
        save_file(chosen, folder / f"model-{number:05}-of-00002.safetensors", {"format": "pt"})
    fields = {**SIZES, "model_type": "llava", "mm_hidden_size": 16, "mm_use_im_start_end": True}
    fields |= {"mm_vision_select_layer": -2, "tie_word_embeddings": False, "out_dim": PROMPT}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_lisa_becomes_a_bundle_that_segment_runs(lisa, tmp_path, monkeypatch, capsys):
    clip = save_clip(tmp_path / "clip")
    bundle = import_lisa(lisa, tmp_path / "out", vision_tower=str(clip))
    config = BundleConfig.read(bundle)
    assert [t.open for t in config.tokens] == ["[SEG]"]
    assert config.sight.image_marks == ("<im_start>", "<im_end>")
    assert config.language_model.source == "../parts/base"
    (tmp_path / "out").rename(tmp_path / "moved")
    model = load_model(str(tmp_path / "moved" / "bundle"), device="cpu", dtype="float32")
    original = LlamaForCausalLM.from_pretrained(tmp_path / "moved" / "parts" / "base")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        # The experts are zero, and the row of [SEG] is the checkpoint's own.
        seg_id = model.token_table.ids["[SEG]"]
        ids[0, 3] = seg_id
        torch.testing.assert_close(model.language_model(ids).logits, original(ids).logits)
    picture(50, 33).save(tmp_path / "photo.png")
    monkeypatch.setattr("llmbind_cli.inference.planner.decode", decode_seg)
    out = tmp_path / "mask.png"
    arguments = [tmp_path / "photo.png", "the cat", "--model", tmp_path / "moved/bundle"]
    assert app.main(["segment", *map(str, arguments), "--out", str(out)]) == 0
    with Image.open(out) as mask:
        assert mask.size == (50, 33)


def decode_seg(model, prompts, **_options):
    """Reply ``It is [SEG].`` with the state of the prompt's own last position."""
    from llmbind_cli.model.decode import Reply

    seg_id = model.token_table.ids["[SEG]"]
    text = model.tokenizer.decode([i for i in prompts[0] if i >= 0])
    assert "the cat Please output segmentation mask." in text
    assert text.count("<im_start>") == text.count("<im_end>") == 1
    states = {1: torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))}
    return [Reply(ids=[5, seg_id], finished=True, hidden_states=states)]


def test_a_checkpoint_that_lacks_a_part_is_refused(lisa, tmp_path):
    clip = str(save_clip(tmp_path / "clip"))
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing"):
        import_lisa(tmp_path, tmp_path / "a", vision_tower=clip)
    fields = json.loads((lisa / "tokenizer.json").read_text())
    fields["added_tokens"] = [t for t in fields["added_tokens"] if t["content"] != "[SEG]"]
    (lisa / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match=r"the tokenizer has no \[SEG\]"):
        import_lisa(lisa, tmp_path / "b", vision_tower=clip)
