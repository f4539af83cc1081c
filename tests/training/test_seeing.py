"""Training with pictures: batches, losses beside literal ones, the cache, and a run that learns."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_photos import annotation, instances, rectangle, save_json
from tiny_vision import light_sight, save_efficientnet
from torch.nn import functional

from llmbind_cli.data.encode import encode_dialogue
from llmbind_cli.data.masks import RleMask
from llmbind_cli.data.pictures import PictureFile
from llmbind_cli.data.rle import coco_rle, encode_runs
from llmbind_cli.data.sample import Dialogue, Sample, SegmentTarget, Turn
from llmbind_cli.errors import ConfigurationError, InputDataError
from llmbind_cli.model.chat_format import IMAGE_ID
from llmbind_cli.model.config import ObjectTokens
from llmbind_cli.model.loader import load_model
from llmbind_cli.nn.frame import Frame
from llmbind_cli.training.distributed import Processes
from llmbind_cli.training.feature_cache import FeatureCache
from llmbind_cli.training.holdout import Holdout
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.run import train
from llmbind_cli.training.seeing import SeeingCollator, box_around, mask_targets
from llmbind_cli.training.sight_losses import MaskWeights

SIZE = 64


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_efficientnet(tmp_path_factory.mktemp("nets") / "net")


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sighted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(folder / "cache"))
        return build(
            save_base(folder / "base"),
            sight=light_sight(network),
            tasks=["image", "segment", "detect"],
        )


def square(left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def draw(path, mask: np.ndarray) -> None:
    levels = np.full((*mask.shape, 3), 230, np.uint8)
    levels[mask] = (200, 30, 30)
    Image.fromarray(levels).save(path)


def rle(mask: np.ndarray) -> RleMask:
    return RleMask(tuple(encode_runs(mask)), *mask.shape)


def sample_of(path, *masks: np.ndarray, text="Here <seg>.", ignored=None) -> Sample:
    return Sample(
        id=path.stem,
        turns=[Turn("user", "where is the cat?"), Turn("assistant", text)],
        image=path.name,
        pictures=(PictureFile(path, path.stem),),
        segments=tuple(
            SegmentTarget(rle(m), "the cat", None if ignored is None else rle(ignored))
            for m in masks
        ),
    )


def encoded(model, sample):
    return encode_dialogue(
        sample, model.tokenizer, model.token_table, decision_weight=1.0, slot=model.image_slot
    )


@pytest.fixture
def samples(model, tmp_path):
    """Two pictures with three masks, one with words alone, and one dialogue without a picture."""
    first, second = square(8, 8, 20), square(30, 20, 24)
    for name, mask in (("one", first), ("two", second), ("three", square(2, 40, 16))):
        draw(tmp_path / f"{name}.png", mask)
    talk = dataclasses.replace(sample_of(tmp_path / "three.png", text="It is red."), segments=())
    made = [
        sample_of(tmp_path / "one.png", first),
        talk,
        sample_of(tmp_path / "two.png", second, first, text="A cat <seg> and one <seg>."),
    ]
    plain = Dialogue(id="p", turns=[Turn("user", "is it red?"), Turn("assistant", "Rain.")])
    return [encoded(model, s) for s in made] + [
        encode_dialogue(plain, model.tokenizer, model.token_table, decision_weight=1.0)
    ]


def test_a_batch_has_the_pictures_and_masks_of_its_dialogues(model, samples):
    batch = SeeingCollator(model.sight)(samples)
    seen = batch.seen
    tower = model.sight.tower
    assert seen.features.shape == (3, tower.num_tokens, tower.width)
    assert (batch.input_ids == IMAGE_ID).sum() == 3 * tower.num_tokens
    assert [m.shape[0] for m in seen.maps] == [2, 2, 2, 2]
    assert seen.image_of.tolist() == [0, 1, 1]
    assert seen.labels.shape == (3, SIZE, SIZE)
    seg_id = model.token_table.ids["<seg>"]
    for row, column in seen.places.tolist():
        assert batch.input_ids[row, column + 1] == seg_id
    assert seen.boxes[0].tolist() == pytest.approx([8 / 64, 8 / 64, 28 / 64, 28 / 64])
    assert batch.is_plain.tolist() == [False, False, False, True]
    # Training never starts a reply on a picture: no loss lies on its positions.
    assert not batch.loss_weights[batch.input_ids == IMAGE_ID].any()


def test_masks_fit_the_square_and_padding_does_not_count(tmp_path):
    mask = np.zeros((30, 60), bool)
    mask[:, :30] = True
    ignored = np.zeros((30, 60), bool)
    ignored[:15, 30:] = True
    draw(tmp_path / "wide.png", mask)
    targets = mask_targets(
        sample_of(tmp_path / "wide.png", mask, ignored=ignored),
        Frame(width=60, height=30, side_px=64),
    )
    labels = targets.labels[0]
    assert (labels[32:] == 255).all()  # padding
    assert (labels[:32, :31] == 1).all()
    assert (labels[:14, 33:] == 255).all()
    assert (labels[17:32, 33:] == 0).all()
    assert targets.boxes.tolist() == [[0.0, 0.0, 0.5, 1.0]]
    with pytest.raises(InputDataError, match="30 × 60 px and the picture wide is 60 × 60"):
        mask_targets(sample_of(tmp_path / "wide.png", mask), Frame(width=60, height=60, side_px=64))


def test_a_box_is_around_the_pixels_and_empty_around_none():
    assert box_around(square(10, 20, 5)) == (10 / 64, 20 / 64, 15 / 64, 25 / 64)
    assert box_around(np.zeros((4, 4), bool)) == (0.0, 0.0, 0.0, 0.0)


def objective_of(model, **weights):
    return LanguageObjective(model, aux_coefficient=0.0, masks=MaskWeights(**weights))


def test_the_mask_loss_is_the_literal_one(model, samples):
    """Masks one by one, at the state before each token, by LISA's formulas."""
    batch = SeeingCollator(model.sight)(samples)
    objective = objective_of(model, box=0.0)
    losses = objective(batch)
    seen, sight = batch.seen, model.sight
    with torch.no_grad():
        hidden = objective.hidden_states(batch)
        bce = dice = 0.0
        for number, (row, column) in enumerate(seen.places.tolist()):
            maps = [m[seen.image_of[number]][None] for m in seen.maps]
            zero = torch.zeros(1, dtype=torch.long)
            logits = sight.mask_logits(maps, hidden[row, column][None], zero)
            logits = functional.interpolate(
                logits[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False
            )[0, 0]
            target = (seen.labels[number] == 1).float()
            p = logits.sigmoid()
            bce += float(functional.binary_cross_entropy(p, target))
            both = (p / 1000 * target).sum()
            sizes = (p / 1000).sum() + (target / 1000).sum()
            dice += float(1 - (2 * both + 1e-6) / (sizes + 1e-6))
    expected = 2.0 * bce / 3 + 0.5 * dice / 3
    # float32 sums of 4096 pixels in another order
    assert float(losses.mask) == pytest.approx(expected, rel=1e-4)
    total = float(losses.text) + expected
    assert float(losses.total.detach()) == pytest.approx(total, rel=1e-4)


def test_gradients_reach_heads_and_adapter_and_leave_frozen_networks_alone(model, samples):
    batch = SeeingCollator(model.sight)(samples)
    objective = objective_of(model)
    objective(batch).total.backward()
    heads = {n: p for n, p in model.sight.heads().items() if p.requires_grad}
    assert all(p.grad is not None for p in heads.values())
    assert heads["projector.linear_1.weight"].grad.abs().sum() > 0
    assert heads["box_head.linear_1.weight"].grad.abs().sum() > 0
    lora = [p for n, p in model.language_model.named_parameters() if n.endswith("lora_B")]
    assert any(p.grad.abs().sum() > 0 for p in lora)
    assert all(p.grad is None for p in model.sight.tower.parameters())
    words = SeeingCollator(model.sight)([samples[3]])
    assert words.seen is None
    objective.zero_grad(set_to_none=True)
    losses = objective(words)
    assert losses.mask is None
    losses.total.backward()
    assert all(p.grad is not None for p in heads.values()), "alike in every process"
    objective.zero_grad(set_to_none=True)


def test_what_counts_is_left_out_where_a_pixel_is_ignored(model, tmp_path):
    mask = square(8, 8, 20)
    draw(tmp_path / "a.png", mask)
    everything = np.ones((SIZE, SIZE), bool)
    one = encoded(model, sample_of(tmp_path / "a.png", mask, ignored=everything & ~mask))
    batch = SeeingCollator(model.sight)([one])
    assert set(batch.seen.labels.unique().tolist()) == {1, 255}
    assert torch.isfinite(objective_of(model)(batch).total)


def test_the_holdout_loss_counts_masks_each_once(model, samples):
    """Three masks in two batches: their mean is over masks, not over batches."""

    class Plain:
        def train(self, mode):
            objective.train(mode)

        def losses(self, batch):
            return objective(batch)

    objective = objective_of(model)
    together = SeeingCollator(model.sight)(samples)
    holdout = Holdout(
        list(samples), batch_size=2, processes=Processes(), collated=SeeingCollator(model.sight),
        mask_weight=0.5,
    )  # fmt: skip
    found = holdout.loss(Plain())
    with torch.no_grad():
        whole = objective.eval()(together)
    assert found.mask == pytest.approx(float(whole.mask), rel=1e-4)
    assert found.text == pytest.approx(float(whole.text), rel=1e-4)
    assert found.total == pytest.approx(found.text + 0.5 * found.mask)


def test_the_cache_changes_nothing_and_keeps_to_its_budget(model, samples, tmp_path):
    def cache(folder, budget=1 << 30):
        return FeatureCache(
            folder, budget_bytes=budget, identities={"tower": "a", "grounding": "b"}
        )

    first = cache(tmp_path / "cache")
    made = SeeingCollator(model.sight, cache=first)(samples)
    assert (first.hits, first.misses) == (0, 5)
    again = cache(tmp_path / "cache")
    found = SeeingCollator(model.sight, cache=again)(samples)
    assert (again.hits, again.misses) == (5, 0)
    assert torch.equal(made.seen.features, found.seen.features)
    assert all(torch.equal(a, b) for a, b in zip(made.seen.maps, found.seen.maps, strict=True))
    plain = SeeingCollator(model.sight)(samples)
    # float16 keeps 11 bits
    torch.testing.assert_close(plain.seen.features, found.seen.features, rtol=2e-3, atol=2e-3)
    other = FeatureCache(
        tmp_path / "cache", budget_bytes=1 << 30, identities={"tower": "c", "grounding": "b"}
    )
    SeeingCollator(model.sight, cache=other)(samples)
    assert (other.hits, other.misses) == (2, 3)
    files = sorted((tmp_path / "cache").glob("*/*.safetensors"))
    damaged = files[0]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    healed = cache(tmp_path / "cache")
    SeeingCollator(model.sight, cache=healed)(samples)
    assert healed.misses <= 1
    size = max(path.stat().st_size for path in files)
    small = cache(tmp_path / "small", budget=2 * size)
    SeeingCollator(model.sight, cache=small)(samples)
    kept = sum(path.stat().st_size for path in (tmp_path / "small").glob("*/*"))
    assert 0 < kept <= 2 * size


RECIPE = """
[model]
base = "{base}"
dtype = "float32"
[lora_moe]
num_experts = 3
rank = 2
[tokens]
tasks = ["image", "segment"]
[sight.vision_tower]
family = "efficientnet-lite0"
source = "{network}"
side_px = 64
fit = "corner"
strides = [16, 32]
[sight.grounding_encoder]
family = "efficientnet-lite0"
source = "{network}"
side_px = 64
fit = "corner"
[sight.mask_decoder]
prompt_width = 32
num_heads = 2
[sight.cache]
dir = "{cache}"
[[data]]
name = "pictures"
kind = "conversations"
paths = ["pictures.jsonl"]
images = ["."]
[optim]
lr = 1e-2
sight_lr = 2e-3
warmup_steps = 2
[train]
steps = 30
batch_size = 4
accumulation = 1
checkpoint_every = 15
log_every = 5
[output]
dir = "{run}"
name = "tiny"
"""


def write_recipe(tmp_path, network, recipe=RECIPE):
    base = save_base(tmp_path / "base")
    masks = [square(4, 4, 24), square(36, 36, 24)]
    with (tmp_path / "pictures.jsonl").open("w") as lines:
        for number in range(8):
            mask = masks[number % 2]
            draw(tmp_path / f"{number}.png", mask)
            turns = [
                {"from": "human", "value": "<image>\nwhere is the cat?"},
                {"from": "gpt", "value": "The cat <seg>." if number < 6 else "It is red."},
            ]
            record = {"id": str(number), "conversations": turns, "image": f"{number}.png"}
            if number < 6:
                record["masks"] = [coco_rle(mask)]
            lines.write(json.dumps(record) + "\n")
    path = tmp_path / "recipe.toml"
    places = {"base": base, "network": network, "cache": tmp_path / "features"}
    path.write_text(recipe.format(**places, run=tmp_path / "run"))
    return path


def test_a_run_learns_masks_and_writes_a_bundle_that_segments(
    tmp_path, network, monkeypatch, capsys
):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "weights"))
    recipe = write_recipe(tmp_path, network)
    assert train(recipe, device="cpu", offline=True) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    masks = [line["loss_mask"] for line in log if line.get("loss_mask") is not None]
    assert masks[-1] < 0.7 * masks[0]
    assert list((tmp_path / "features").glob("*/*.safetensors"))
    bundle = load_model(str(tmp_path / "run/bundle"), device="cpu", dtype="float32")
    assert bundle.sight.serves == {"segment"}
    # The finished run resumes to the same weights: heads and moments are all in the checkpoint.
    assert train(recipe, resume=True, device="cpu", offline=True) == 0
    again = load_model(str(tmp_path / "run/bundle"), device="cpu", dtype="float32")
    for name, parameter in bundle.sight.heads().items():
        assert torch.equal(parameter, again.sight.heads()[name]), name


def test_pictures_to_score_on_are_not_trained_on(tmp_path, network, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "weights"))
    recipe = write_recipe(tmp_path, network)
    annotations = [annotation(1, 9, 1, [rectangle(4, 4, 20, 20)])]
    save_json(tmp_path / "coco.json", instances({9: "7.png"}, {1: "cat"}, annotations))
    table = """
[[evaluation]]
name = "scored"
kind = "coco"
annotations = "coco.json"
photos = "."
"""
    recipe.write_text(recipe.read_text().replace("[optim]", f"{table}[optim]"))
    told = "coco/7.png of scored is pictures/7.png of pictures"
    with pytest.raises(InputDataError, match=told):
        train(recipe, device="cpu", offline=True)
    with pytest.raises(InputDataError, match=told):  # what has another name cannot be dropped by it
        train(recipe, overrides=["overlap=drop"], device="cpu", offline=True)
    allowed = ["overlap=allow", "train.steps=1"]
    assert train(recipe, overrides=allowed, device="cpu", offline=True) == 0


def test_pictures_without_sight_are_refused(tmp_path, network, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "weights"))
    start, end = RECIPE.index("[sight.vision_tower]"), RECIPE.index("[[data]]")
    recipe = write_recipe(tmp_path, network, RECIPE[:start] + RECIPE[end:])
    with pytest.raises(ConfigurationError, match=r"recipe has no \[sight\] to see them with"):
        train(recipe, device="cpu", offline=True)


def test_a_bundle_of_words_is_a_start_for_one_that_sees(tmp_path, network, monkeypatch):
    """Tokens that the bundle has keep their rows; new ones and the sight start afresh."""
    from llmbind_cli.model.checkpoint import restore_weights, save_bundle
    from llmbind_cli.model.token_rows import attached_rows

    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "weights"))
    base = save_base(tmp_path / "base")
    words = build(base, seed=3, tasks=["image", "edit"])
    save_bundle(words, tmp_path / "words", card="# Words\n")
    seeing = build(base, seed=4, sight=light_sight(network), tasks=["image", "edit", "segment"])
    before = {name: rows.clone() for name, rows in attached_rows(seeing.language_model).items()}
    restore_weights(seeing, tmp_path / "words")
    for name, rows in attached_rows(seeing.language_model).items():
        earlier = attached_rows(words.language_model)[name]
        assert torch.equal(rows[: len(earlier)], earlier)
        assert torch.equal(rows[len(earlier) :], before[name][len(earlier) :])


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ({"mask_decoder": {"neck_layers": 1}}, "projector."),
        (
            {"object_tokens": ObjectTokens(most=2, names=3, colours=2, pieces=1)},
            ("mask_decoder.", "prompt_projection."),
        ),
    ],
)
def test_a_bundle_that_sees_otherwise_is_a_start_for_all_the_rest(
    tmp_path, network, monkeypatch, other, kept
):
    from dataclasses import replace

    from llmbind_cli.model.checkpoint import restore_weights, save_bundle

    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "weights"))
    base, sight, tasks = save_base(tmp_path / "base"), light_sight(network), ["image", "segment"]
    earlier = build(base, seed=3, sight=sight, tasks=tasks)
    save_bundle(earlier, tmp_path / "earlier", card="# Earlier\n")
    decoder = {**sight.mask_decoder, **other.get("mask_decoder", {})}
    changed = replace(sight, **{**other, "mask_decoder": decoder})
    model = build(base, seed=4, sight=changed, tasks=tasks)
    before = {name: head.detach().clone() for name, head in model.sight.heads().items()}
    restore_weights(model, tmp_path / "earlier")
    for name, head in model.sight.heads().items():
        if name.startswith(kept):
            assert torch.equal(head, earlier.sight.heads()[name]), name
        else:
            assert torch.equal(head, before[name]), name
