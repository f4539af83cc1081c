"""The stages of sight's training: what they look at, what they teach, and that they go on."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_binding_model import build
from tiny_language_models import save_base
from tiny_vision import light_sight, save_efficientnet

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from embedded_sight import drawings, fitting, grounding, held_out, naming, reading, speaking
from embedded_sight.coining import Coinage, CoinedWords
from embedded_sight.joint import TaughtObjective, take_first_stages
from embedded_sight.lists import StrangeLists, TrueLists, found_without, strange_names
from embedded_sight.names import Cells, Centres, Names
from embedded_sight.scenes import Scenes
from resumable.optimizers import Optimizers
from resumable.state import Terms, take_what_fits

from llmbind_cli.data.batches import Batch, SeenBatch
from llmbind_cli.data.encode import encode_dialogue
from llmbind_cli.data.sample import Dialogue, Turn
from llmbind_cli.data.scenes.arrangements import ArrangementSampler, is_held_out_thing
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.pictures import SceneRenderer
from llmbind_cli.data.scenes.questions import SceneQuestions
from llmbind_cli.data.scenes.sampling import is_held_out_pair
from llmbind_cli.data.scenes.sprites import Sprites
from llmbind_cli.data.scenes.world import load_world
from llmbind_cli.evaluation.mask_set import read_mask_set
from llmbind_cli.generators.base import GeneratedArtifact
from llmbind_cli.inference.requests import read_requests
from llmbind_cli.model.checkpoint import save_bundle
from llmbind_cli.model.config import HEADS_NAME, MaskFilter, ObjectTokens
from llmbind_cli.nn.light_mask_decoder import LightMaskDecoder
from llmbind_cli.nn.list_pointer import SURENESS, ListedThings
from llmbind_cli.nn.object_projector import CellScores, ObjectProjector
from llmbind_cli.nn.tuned_stage import TunedStage
from llmbind_cli.training.model_card import training_card
from llmbind_cli.training.objective import LanguageObjective
from llmbind_cli.training.seeing import SeeingCollator
from llmbind_cli.training.sight_losses import MaskWeights

SIDE = 64


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def renderer(world):
    codes = tuple(code for thing in world for code in thing.codes)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] - 15.5
    pictures = np.zeros((len(codes), 32, 32, 4), np.uint8)
    pictures[..., :3] = rng.integers(0, 255, (len(codes), 1, 1, 3))
    pictures[..., 3] = (np.hypot(x, y) < 15) * 255
    return SceneRenderer(Sprites(codes=codes, pictures=pictures), SIDE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sighted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMBIND_CACHE", str(folder / "cache"))
        sight = light_sight(save_efficientnet(folder / "net"))
        return build(save_base(folder / "base"), sight=sight, tasks=["image", "segment"])


@pytest.fixture
def questions(world, renderer):
    return SceneQuestions(
        ArrangementSampler(world, 3), renderer, name="t", turns=3, questions={"refer": 1.0}
    )


@pytest.fixture
def looking(model, world, questions):
    names = Names(model.language_model.get_input_embeddings(), model.tokenizer, world)
    return names, grounding.Asking(names=names, questions=questions, sight=model.sight, kept=5)


@pytest.fixture
def describing(model, looking, questions):
    names, _ = looking
    return naming.Describing(names=names, questions=questions, sight=model.sight, kept=5)


def networks_of(model):
    torch.manual_seed(0)
    embedding = model.language_model.get_input_embeddings()
    return grounding.Grounding(model.sight, embedding, model.tokenizer)


def test_cells_are_named_after_what_covers_them(looking, describing, world):
    _, looks = looking
    (looked,), (described,) = looks.look(range(1)), describing.look(range(1))
    assert looked.cells.things.shape == (looked.maps[-2].shape[-2:].numel(),)
    assert described.cells.things.shape == described.features.shape[:1]
    known = list(world)
    for cells in (looked.cells, described.cells):
        shown = {known[number].name for number in cells.things.tolist() if number >= 0}
        assert shown <= {thing.name for thing in world}
        assert all(0 <= colour < 11 for colour in cells.colours.tolist() if colour >= 0)
    truth = np.unpackbits(looked.truth, axis=-1).astype(bool)
    assert truth.shape[1:] == (SIDE, SIDE)
    share = looked.masks.float().mean((1, 2)) / 255
    torch.testing.assert_close(
        share, torch.from_numpy(truth.mean((1, 2))).float(), atol=2e-3, rtol=0
    )


def test_cells_of_tuned_blocks_are_named_too(model, looking, questions):
    names, _ = looking
    sight = model.config.sight
    encoder = dataclasses.replace(sight.grounding_encoder, tuned_from=16)
    tuned = build(
        model.config.language_model.source, tasks=["image", "segment"],
        sight=dataclasses.replace(sight, grounding_encoder=encoder),
    )  # fmt: skip
    looks = grounding.Asking(names=names, questions=questions, sight=tuned.sight)
    (looked,) = looks.look(range(1))
    with torch.no_grad():
        _, named = networks_of(tuned)([looked], [(0, 0)])
    assert len(named) == len(looked.cells.things)
    decoder = tuned.sight.mask_decoder
    assert len(grounding.tuned_blocks(decoder)) == len(list(decoder.last.parameters()))
    assert not grounding.tuned_blocks(model.sight.mask_decoder)


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_come_again_and_no_more_are_kept_than_said(looking, workers):
    _, looks = looking
    (alike,) = looks.look(range(3, 4))
    sizes = []
    for looked in looks.batches(range(1, 4), 3, 2, workers=workers):
        sizes.append(len(looked))
        if len(sizes) == 1:
            assert torch.equal(looked[0].masks, alike.masks)
            assert torch.equal(looked[0].cells.things, alike.cells.things)
            torch.testing.assert_close(looked[0].maps, alike.maps)
    assert sizes == [3, 5, 5]
    assert len(looks._kept) == 5


def test_a_projected_name_is_its_own_nearest(looking):
    names, _ = looking
    projected = names.things + 0.0
    nothing = torch.full((len(projected),), -1)
    cells = Cells(torch.arange(len(projected)), nothing)
    _, right = names.loss(projected, cells)
    distinct = len(torch.unique(names.things, dim=0)) / len(names.things)
    assert float(right) >= distinct - 0.05
    empty = Cells(nothing, nothing)
    assert names.loss(projected, empty)[0] == 0


def test_pictures_made_soft_look_otherwise_and_mean_the_same(model, questions, looking):
    names, _ = looking
    sharp, soft, some = (
        grounding.Asking(names=names, questions=questions, sight=model.sight, soft=share).look(
            range(6)
        )
        for share in (0.0, 1.0, 0.5)
    )
    for one, other in zip(sharp, soft, strict=True):
        assert not torch.equal(one.maps[0], other.maps[0])
        assert torch.equal(one.masks, other.masks)
        assert torch.equal(one.cells.things, other.cells.things)
    changed = [not torch.equal(a.maps[0], b.maps[0]) for a, b in zip(sharp, some, strict=True)]
    assert 0 < sum(changed) < 6


class FakeGenerator:
    """Draws a plain picture of a grey that its seed tells, and counts what it is asked."""

    model_hash = "f" * 64

    def __init__(self):
        self.asked = []

    def generate(self, requests):
        assert len(requests) == self.batch_size
        self.asked += requests
        return [self._drawn(request.seed) for request in requests]

    def _drawn(self, seed):
        file = io.BytesIO()
        Image.new("RGB", (128, 128), (seed, seed, seed)).save(file, "PNG")
        return GeneratedArtifact(payload=file.getvalue(), media_type="image/png", suffix=".png")


def test_drawings_are_asked_about_as_their_scenes_are(model, world, renderer, looking, tmp_path):
    generator, counts = FakeGenerator(), {"train": 20, "held_out": 3}
    drawings.draw_all(generator, world, tmp_path, seed=5, counts=counts)
    files = sorted(tmp_path.glob("*/*.png"))
    assert len(generator.asked) == 23 >= len(files) > 15
    files[0].unlink()
    drawings.draw_all(generator, world, tmp_path, seed=5, counts=counts)
    assert len(generator.asked) == 24
    assert files[0].exists()

    row = drawings.drawn_arrangements(tmp_path, world, "train")
    drawn = SceneQuestions(
        row, drawings.DrawingRenderer(renderer.sprites, tmp_path / "train"), name="d",
        turns=3, questions={"refer": 1.0},
    )  # fmt: skip
    shown = [drawn[number].pictures[0] for number in range(40)]
    for picture in shown:
        assert len(set(np.asarray(picture.load()).flat)) == 1
        for placed in picture.arrangement.things:
            assert not is_held_out_thing(placed.thing)
            assert placed.count == 1
    numbers = {np.asarray(picture.load()).flat[0] for picture in shown}
    words = {request.seed: request.prompt.lower() for request in generator.asked[:20]}
    assert len(numbers) > 10
    named = [
        any(noun.one in words[n] for noun in placed.thing.names + placed.thing.category_words)
        for picture in shown
        if len(picture.arrangement.things) == 1
        for n in np.asarray(picture.load()).flat[:1]
        for placed in picture.arrangement.things
    ]
    assert all(named)
    pairs = drawings.drawn_arrangements(tmp_path, world, "held_out")
    for number in range(3):
        things = [placed.thing for placed in pairs.draw(number).things]
        assert len(things) == 1 or is_held_out_pair(*things)

    names, _ = looking
    mixed = drawings.Alternating(range(100), range(1000, 1100))
    assert [mixed[number] for number in range(8)] == [0, 1, 2, 1000, 4, 5, 6, 1001]
    described, soft = (
        naming.Describing(names=names, questions=drawn, sight=model.sight, soft=share).look(
            range(2)
        )
        for share in (0.0, 1.0)
    )
    for one, other in zip(described, soft, strict=True):
        assert torch.equal(one.features, other.features)  # a drawing is soft already
        assert one.centres.here.any()


def test_what_fits_of_earlier_networks_is_taken(model):
    networks, earlier = networks_of(model), networks_of(model).state_dict()
    earlier = {name: value + 1 for name, value in earlier.items()}
    earlier["naming.weight"] = torch.zeros(1)
    own = {name: value.clone() for name, value in networks.state_dict().items()}
    take_what_fits(networks, {**earlier, "of no use": torch.zeros(1)})
    for name, value in networks.state_dict().items():
        assert torch.equal(value, own[name] if name == "naming.weight" else earlier[name]), name
    networks.load_state_dict(own)


def test_a_stopped_stage_goes_on_where_it_was(model, looking, tmp_path, monkeypatch):
    """All at once, or in two parts: equal weights. What is kept to ask again is not saved."""
    monkeypatch.setattr(grounding, "SAVE_EVERY", 2)
    names, looks = looking
    held_out_pictures = {"held out": looks.look(range(90, 92))}

    untaught = {k: v.detach().clone() for k, v in model.sight.heads().items()}

    def teach(steps, state):
        model.sight.load_heads(untaught)
        networks = networks_of(model)
        looks._kept.clear()
        grounding.teach_grounding(
            networks, names, looks, held_out_pictures, steps=steps, state=state, fresh=2, again=0
        )
        return {k: v.clone() for k, v in networks.state_dict().items()}

    start = {k: v.clone() for k, v in networks_of(model).state_dict().items()}
    monkeypatch.setattr(grounding, "_DECAY", 1e-9)  # the rate then does not hang on the steps
    whole = teach(4, tmp_path / "whole.pt")
    teach(2, tmp_path / "parts.pt")
    parts = teach(4, tmp_path / "parts.pt")
    assert any(not torch.equal(start[name], whole[name]) for name in start)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_projector_learns_to_list_and_goes_on_where_it_was(
    model, world, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr(naming, "_DECAY", 1e-9)  # the rate then does not hang on the steps
    embedding = model.language_model.get_input_embeddings()
    names = Names(embedding, model.tokenizer, list(world)[:30])  # a small table is quickly learned
    describing = naming.Describing(names=names, questions=questions, sight=model.sight, kept=5)
    apart = describing.look(range(90, 92))

    def teach(learning, steps, state):
        describing._kept.clear()
        naming.teach_projector(
            learning, names, describing, {"scenes": apart}, steps=steps, state=state,
            fresh=2, again=0,
        )  # fmt: skip
        return learning

    width = apart[0].features.shape[1]
    whole = teach(lister(names, width), 6, tmp_path / "whole.pt")
    with torch.no_grad():
        assert naming._loss(whole, apart) < naming._loss(lister(names, width), apart)
    teach(lister(names, width), 3, tmp_path / "parts.pt")
    parts = teach(lister(names, width), 6, tmp_path / "parts.pt").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.state_dict().items())
    rates = []
    monkeypatch.setattr(naming, "_WARM_UP", 10)  # the rate tells how long ago it began
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"])
    )
    for steps, begun in ((102, 100), (103, 0)):
        naming.teach_projector(
            lister(names, width), names, describing, {}, steps=steps, fresh=2, again=0,
            state=tmp_path / "later.pt", begun=begun, lr=1.0,
        )  # fmt: skip
    assert rates == pytest.approx([0.1, 0.2, 0.3])
    more = lister(names, width, names=31)
    with pytest.raises(ValueError, match="must have names = 30, colours = 11 and most ≤ 6"):
        teach(more, 1, tmp_path / "other.pt")


def lister(known, width, **settings):
    """A projector that may list two of the things whose names are known."""
    torch.manual_seed(0)
    counts = {"names": len(known.things), "colours": len(known.colours), **settings}
    return ObjectProjector(width=width, hidden_size=len(known.centre), most=2, pieces=3, **counts)


def test_tuned_blocks_learn_more_slowly_and_their_neck_begins_as_the_decoder_s(
    model, world, questions, tmp_path
):
    names = Names(model.language_model.get_input_embeddings(), model.tokenizer, list(world)[:30])
    describing = naming.Describing(names=names, questions=questions, sight=model.sight, kept=5)
    torch.manual_seed(0)
    stage = TunedStage(stride=16, beside=2)
    learning = lister(names, stage.width, stage=stage)
    lateral, neck = stage.lateral, stage.neck
    decoder = LightMaskDecoder(channels=(112, 1280), attended_maps=1, neck_layers=2)
    naming.begin_neck(SimpleNamespace(projector=learning, mask_decoder=decoder))
    assert torch.equal(lateral.mix.weight, decoder.coarse[0].mix.weight)
    assert torch.equal(neck[1].mlp[0].weight, decoder.neck[1].mlp[0].weight)
    naming.begin_neck(SimpleNamespace(projector=lister(names, 7), mask_decoder=decoder))
    narrow = LightMaskDecoder(channels=(112, 1280), attended_maps=1, prompt_width=64)
    naming.begin_neck(SimpleNamespace(projector=learning, mask_decoder=narrow))
    assert torch.equal(lateral.mix.weight, decoder.coarse[0].mix.weight)
    sizes = [sum(p.numel() for p in group["params"]) for group in naming._groups(
        learning, list(learning.parameters())
    )]  # fmt: skip
    assert sizes[1] == sum(p.numel() for p in stage.last.parameters())
    assert sum(sizes) == sum(p.numel() for p in learning.parameters())
    features = torch.randn(4, 4 * 112 + 2)
    looked = [
        dataclasses.replace(one, features=features.bfloat16()) for one in describing.look(range(2))
    ]
    describing.look = lambda numbers: looked[: len(numbers)]
    before = {name: value.clone() for name, value in learning.state_dict().items()}
    naming.teach_projector(
        learning, names, describing, {"scenes": looked}, steps=1, state=tmp_path / "s.pt",
        fresh=2, again=0,
    )  # fmt: skip
    moved = {n: float((v - before[n]).abs().max()) for n, v in learning.state_dict().items()}
    # The first step of Adam is as long as its learning rate, a fiftieth of the whole at first.
    whole = moved["stage.lateral.mix.weight"]
    assert moved["stage.last.top.convolution.weight"] == pytest.approx(0.3 * whole, rel=0.05)


def test_a_list_spells_names_as_people_write_them(model, looking, world, questions):
    """What a projector without errors lists of a scene is what the model's embeddings say."""
    names, _ = looking
    projector = lister(names, 5)
    names.fill(projector)
    picture = questions[0].pictures[0]
    with torch.no_grad():
        (told,) = projector.listed(names.found(picture, 2))
    embedding = model.language_model.get_input_embeddings()
    placed = [one for one in picture.arrangement.things if one.thing.name in names.number][:2]
    first = min(placed, key=lambda one: one.box.centre[0])
    ids = model.tokenizer(f" {first.thing.noun.one}", add_special_tokens=False).input_ids[:3]
    spelled = embedding(torch.tensor(ids)).float()
    torch.testing.assert_close(told[4 - len(ids) : 4], spelled)
    colour = first.colour or first.thing.colours[0]
    torch.testing.assert_close(told[4], names.colours[NAMES.index(colour)])
    collated = TrueLists(SimpleNamespace(projector=projector), names)
    torch.testing.assert_close(collated._features(questions[0])[0], told)
    with pytest.raises(ValueError, match=r"must have a table \[sight\.object_tokens\]"):
        names.fill(model.sight.projector)
    assert not told[1 : 4 - len(ids)].any()
    assert not names.found(object(), 2).present.any()


def test_a_strange_list_has_no_name_for_some_things(model, describing, looking, questions):
    """What it lists instead is what the projector takes them for otherwise."""
    names, _ = looking
    projector = lister(names, describing.look(range(1))[0].features.shape[1])
    names.fill(projector)
    projector.finding.bias.data[0] = 5.0  # finds something
    sight = SimpleNamespace(projector=projector, tower_features=model.sight.tower_features)
    sample = questions[0]
    features = model.sight.tower_features([sample.pictures[0].load()])
    with torch.no_grad():
        scores = projector.scores(features)
    usual = projector.find(scores)
    (known,) = StrangeLists(sight, names, 0.0)._features(sample)
    torch.testing.assert_close(known, projector.listed(usual)[0])
    first = int(usual.names[0, 0].argmax())
    strange = found_without(projector, scores, [first])
    assert strange.names[0, 0, first] == 0
    torch.testing.assert_close(strange.names[0, 0].sum(), torch.tensor(1.0))
    torch.testing.assert_close(strange.places, usual.places)
    assert sight.embeddings(known) is known
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
        StrangeLists(sight, names, 1.5)


def test_what_a_reply_tells_keeps_its_name(looking, questions, world, renderer):
    names, _ = looking
    sample = questions[0]
    (picture,) = sample.pictures
    all_of_it = {names.number[placed.thing.name] for placed in picture.arrangement.things}
    assert {*strange_names(sample, picture, names, 1.0)} == all_of_it  # all replies mark
    assert not [*strange_names(sample, picture, names, 0.0)]
    assert not [*strange_names(sample, object(), names, 1.0)]
    told = SceneQuestions(
        ArrangementSampler(world, 3), renderer, name="t", turns=1, questions={"describe": 1.0}
    )[0]
    assert not [*strange_names(told, told.pictures[0], names, 1.0)]


def test_strange_things_bear_words_that_nothing_bears(looking, questions, world):
    names, _ = looking
    sample = questions[0]
    coinage = SimpleNamespace(coin=lambda chance: "zephyrine")

    def coin(**shares):
        return CoinedWords(names, world, coinage, **shares)(sample)

    assert coin(strange=0.0, share=1.0).turns == sample.turns
    assert coin(strange=1.0, share=0.0).turns == sample.turns
    renamed = coin(strange=1.0, share=1.0)
    assert renamed.id == sample.id
    placed = {one.thing.name: one.thing for one in sample.pictures[0].arrangement.things}
    known = [noun.one.lower() for thing in placed.values() for noun in thing.names]
    asked = zip(renamed.segments, renamed.turns[::2], strict=True)
    for told in (text for target, turn in asked for text in (target.phrase, turn.text)):
        assert "zephyrine" in told
        assert not [name for name in known if f" {name} " in f" {told.lower()} "]
    picture = sample.pictures[0]
    assert {*strange_names(renamed, picture, names, 0.5)} == {
        *strange_names(sample, picture, names, 0.5)
    }
    elsewhere = dataclasses.replace(sample, pictures=(object(),))
    assert CoinedWords(names, world, coinage, strange=1.0, share=1.0)(elsewhere) is elsewhere


def test_what_nothing_can_bear_is_not_there(looking, world, renderer):
    """Without strange things a coined word is asked for in vain, and only so."""
    names, _ = looking
    asked = SceneQuestions(
        ArrangementSampler(world, 3), renderer, name="v", turns=4, questions={"presence": 1.0}
    )
    coinage = SimpleNamespace(coin=lambda chance: "zephyrine")
    coin = CoinedWords(names, world, coinage, strange=0.0, share=1.0)
    texts = [turn.text for number in range(12) for turn in coin(asked[number]).turns]
    replies = {True: set(), False: set()}
    for said, replied in zip(texts[::2], texts[1::2], strict=True):
        replies["zephyrine" in said].add(replied)
    assert replies[True] == {"No."}
    assert "Yes." in replies[False]


def test_coined_words_are_of_no_name(model, world):
    pieces = {"Ġzest": 0, "Ġapple": 1, "Ġred": 2, "zeal": 3, "Ġof": 4, "ĠZeus": 5, "Ġfruit": 6}
    tokenizer = SimpleNamespace(
        get_vocab=lambda: pieces, convert_tokens_to_string=lambda told: told[0].replace("Ġ", " ")
    )
    coinage = Coinage(tokenizer, world)
    assert coinage.words == ["zest"]
    made = {coinage.coin(Random(number)) for number in range(200)}
    assert "zest" in made
    assert len(made) > 50
    assert {len(one.split()) for one in made} == {1, 2}
    taken = {noun.one.lower() for thing in world for noun in thing.names}
    assert not made & taken


def test_lists_are_scored_by_what_is_there(model, describing, looking):
    """Scores made of the truth are right in all; of nothing, in none."""
    names, _ = looking
    looked = describing.look(range(4))
    side = int(len(looked[0].features) ** 0.5)

    class Knowing(ObjectProjector):
        def scores(self, features):
            centres = Centres.of(one.centres for one in looked)

            def sure(numbers, count):
                return 50.0 * torch.eye(count + 1)[numbers][:, :count].view(-1, side, side, count)

            return CellScores(
                (centres.here * 20.0 - 10).view(-1, side, side),
                centres.offsets.view(-1, side, side, 2),
                sure(centres.things, len(names.things)),
                sure(centres.colours, 11),
            )

        def described(self, scores, rows, columns):
            picture = torch.arange(len(rows))[:, None]
            return (
                scores.names[picture, rows, columns],
                scores.cells[picture, rows, columns],
            )

    known = {"names": len(names.things), "colours": 11, "most": 4, "pieces": 1}
    width, hidden_size = looked[0].features.shape[1], len(names.centre)
    knowing = Knowing(width=width, hidden_size=hidden_size, **known)
    scores = naming.listed(knowing, looked)
    assert scores["found"] > 0.5
    assert set(scores) == {"found", "named", "coloured", "right length", "right list"}
    nothing = ObjectProjector(width=width, hidden_size=hidden_size, **known)
    nothing.finding.bias.data[0] = -99.0
    assert naming.listed(nothing, looked)["found"] == 0


def test_muon_learns_through_its_views():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 3)
    before = [p.detach().clone() for p in layer.parameters()]
    optimizers = Optimizers(layer.parameters())
    layer(torch.randn(1, 2, 5, 5)).square().mean().backward()
    optimizers.step(1e-2)
    assert all(not torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert all(p.grad is None for p in layer.parameters())
    known = torch.nn.Conv2d(2, 3, 3)
    held = [p.detach().clone() for p in known.parameters()]
    both = [*layer.parameters(), *known.parameters()]
    slower = Optimizers(both, tuned=known.parameters(), weight_decay=0.0)
    known(torch.randn(1, 2, 5, 5)).square().mean().backward()
    slower.step(1e-2)  # the first step of Adam is as long as its rate
    for was, now in zip(held, known.parameters(), strict=True):
        assert float((now.detach() - was).abs().max()) == pytest.approx(3e-3, rel=0.01)
    again = Optimizers(layer.parameters())
    again.load_state_dict(optimizers.state_dict())
    assert again.state_dict()["muon"]["state"].keys() == {0}


def test_the_teacher_adds_its_distance_to_the_loss_of_masks(model, looking):
    _, looks = looking
    (looked,) = looks.look(range(1))
    hidden = torch.randn(1, 4, model.sight.projector.linear_2.out_features)
    seen = SeenBatch(
        features=torch.zeros(0),
        maps=tuple(one[None].float() for one in looked.maps),
        pictured=torch.zeros(1, dtype=torch.long),
        image_of=torch.zeros(1, dtype=torch.long),
        places=torch.tensor([[0, 2]]),
        labels=torch.zeros(1, SIDE, SIDE, dtype=torch.uint8),
        boxes=torch.zeros(1, 4),
        phrases=(looked.phrases[0],),
    )
    empty = torch.zeros(1, 4, dtype=torch.long)
    batch = Batch(
        input_ids=empty, attention_mask=empty + 1, loss_weights=empty.float(), reply_kinds=empty,
        is_plain=torch.zeros(1, dtype=torch.bool), seen=seen,
    )  # fmt: skip
    weights = MaskWeights()
    taught = TaughtObjective(model, networks_of(model), aux_coefficient=0.0, masks=weights)
    with_teacher = taught.sight_losses(batch, hidden, weights)
    alone = super(TaughtObjective, taught).sight_losses(batch, hidden, weights)
    assert with_teacher.mask > alone.mask
    assert not any("reader" in name for name, _ in taught.named_parameters())


def test_dialogues_in_words_are_spoken_as_another_bundle_speaks_them(model, questions):
    """Towards that bundle's distributions, task tokens among them; those with pictures are not."""
    other = build(
        model.config.language_model.source, sight=model.config.sight, tasks=["image", "segment"],
        seed=5,
    )  # fmt: skip
    reply = "Here: <gen>a cat</gen>"
    words = Dialogue(id="w", turns=[Turn("user", "draw a cat"), Turn("assistant", reply)])
    encoded = [
        encode_dialogue(one, model.tokenizer, model.token_table, decision_weight=1.0, slot=slot)
        for one, slot in ((words, None), (questions[0], model.image_slot))
    ]
    for kept, alike in ((model, True), (other, False)):
        objective = TaughtObjective(model, kept=kept, aux_coefficient=0.0)
        usual = LanguageObjective(model, aux_coefficient=0.0)
        in_words = SeeingCollator(model.sight)(encoded[:1])
        objective(in_words).total.backward()
        trained = [p for p in model.language_model.parameters() if p.grad is not None]
        largest = max(parameter.grad.abs().max() for parameter in trained)
        assert bool(largest < 1e-5) is alike
        model.language_model.zero_grad()
        seen = SeeingCollator(model.sight)(encoded[1:])
        assert torch.equal(objective(seen).text, usual(seen).text)
    assert not any("_kept" in name for name, _ in objective.named_parameters())


@pytest.mark.parametrize("taught", [True, False])
def test_decoder_and_projector_are_those_of_the_first_stages(model, tmp_path, taught):
    own = {name: value.detach().clone() for name, value in model.sight.heads().items()}
    networks = networks_of(model)
    state = {name: value + 1 for name, value in networks.state_dict().items()}
    torch.save({"networks": state}, tmp_path / "grounding.pt")
    if taught:
        state = {name: value + 1 for name, value in model.sight.projector.state_dict().items()}
        torch.save({"projector": state}, tmp_path / "projector.pt")
    teacher = take_first_stages(model, tmp_path)
    for name, value in model.sight.heads().items():
        from_stage = name.startswith("mask_decoder") or (name.startswith("projector") and taught)
        assert torch.equal(value, own[name] + 1 if from_stage else own[name]), name
    assert not any(p.requires_grad for p in teacher.reader.parameters())
    model.sight.load_heads(own)


@pytest.mark.parametrize("neck_layers", [None, 1])
def test_without_those_the_decoder_stays_that_of_the_start(model, tmp_path, neck_layers):
    own = {name: value.detach().clone() for name, value in model.sight.heads().items()}
    save_bundle(model, tmp_path, card="# Tiny\n", dtype=torch.bfloat16)
    start = SimpleNamespace(bundle=tmp_path)
    if neck_layers is None:
        assert take_first_stages(model, tmp_path, start) is None
        assert all(torch.equal(own[name], value) for name, value in model.sight.heads().items())
        return
    path = tmp_path / "llmbind.json"
    config = json.loads(path.read_text())
    config["mask_decoder"]["neck_layers"] = neck_layers
    path.write_text(json.dumps(config))
    for begin in (start, None):
        with pytest.raises(SystemExit, match=r"grounding\.pt is not there"):
            take_first_stages(model, tmp_path, begin)


def test_a_bundle_follows_another_whose_decoder_it_has(model, questions):
    """Its language model is the same here, so a projection that knew nothing learns all."""
    sight = model.config.sight
    other = build(model.config.language_model.source, sight=sight, tasks=["image", "segment"])
    with torch.no_grad():
        other.sight.mask_decoder.mask_token.add_(1)
    with pytest.raises(ValueError, match="different mask decoders"):
        speaking.follow(other, model, questions, 1)
    own = model.sight.heads()
    other.sight.load_heads({n: v for n, v in own.items() if not n.startswith("prompt_projection")})
    other.sight.requires_grad_(False)  # as of a loaded bundle
    for layer in other.sight.prompt_projection.children():
        layer.reset_parameters()
    decoder = {k: v.clone() for k, v in other.sight.mask_decoder.state_dict().items()}
    assert speaking.follow(other, model, questions, 160) > 0.5
    assert all(torch.equal(v, decoder[k]) for k, v in other.sight.mask_decoder.state_dict().items())


def was_trained(bundle):
    """Have a bundle tell of a training, as those do that a training wrote."""
    training = {"steps": 1, "dialogues_seen": 1, "data_sha256": "0", "sources": []}
    training["recipe"] = {"train": {"seed": 0}}  # no count of parameters, as in earlier bundles
    path = bundle / "llmbind.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": training}))


@pytest.mark.parametrize(
    ("give", "part"),
    [(speaking.give_prompts, "prompt_projection"), (speaking.give_projector, "projector")],
)
def test_a_part_goes_into_a_bundle_and_nothing_else_does(model, tmp_path, give, part):
    bundle = tmp_path / "bundle"
    save_bundle(model, bundle, card="# Tiny\n", dtype=torch.bfloat16)
    was_trained(bundle)
    before = load_file(bundle / HEADS_NAME)
    own = {name: head.detach().clone() for name, head in model.sight.heads().items()}
    model.sight.load_heads({name: head + 1 for name, head in own.items()})
    give(bundle, model, {"steps": 7})
    model.sight.load_heads(own)
    for name, head in load_file(bundle / HEADS_NAME).items():
        given = (own[name] + 1).bfloat16() if name.startswith(f"{part}.") else before[name]
        assert torch.equal(head, given), name
    training = json.loads((bundle / "llmbind.json").read_text())["training"]
    assert training["fitted"] == {part: {"steps": 7}}
    told = f"- Fitted apart, {part.replace('_', ' ')}: steps 7\n"
    assert told in (bundle / "README.md").read_text()


def test_a_bundle_that_gets_a_projector_looks_at_what_that_reads(model, tmp_path):
    bundle = tmp_path / "bundle"
    save_bundle(model, bundle, card="# Tiny\n", dtype=torch.bfloat16)
    was_trained(bundle)
    path = bundle / "llmbind.json"
    told = json.loads(path.read_text())
    tower = told["vision_tower"]
    path.write_text(json.dumps(told | {"vision_tower": tower | {"cell_colours": True}}))
    speaking.give_projector(bundle, model, {"steps": 7})
    assert json.loads(path.read_text())["vision_tower"] == tower


def test_the_card_tells_what_a_bundle_sees_with(model):
    sight = model.config.sight
    tower = dataclasses.replace(sight.vision_tower, tuned_from=16)
    training = {"steps": 1, "dialogues_seen": 1, "data_sha256": "0", "sources": []}
    training["recipe"] = {"train": {"seed": 0}}
    for smoothing, told in ((None, "\n"), (MaskFilter(radius=3, eps=1e-5), ", a guided filter ")):
        encoder = dataclasses.replace(sight.grounding_encoder, tuned_from=smoothing and 16)
        seen = dataclasses.replace(
            sight, vision_tower=tower, grounding_encoder=encoder, mask_filter=smoothing,
            mask_decoder={"pointer_width": 8 if smoothing else 0},
        )  # fmt: skip
        config = dataclasses.replace(model.config, sight=seen, training=training)
        card = training_card(config)
        name = "efficientnet-lite0 at 64 px"
        tuned = ", its blocks tuned from stride 16 on"
        points = ", pointing at what is listed"
        cut = f"{name}{tuned}{points}{told}" if smoothing else f"{name}{told}"
        assert f"- Sees with: {name}{tuned}; cuts out with: {cut}" in card
    assert "a guided filter of radius 3 and eps 1e-05\n" in card


def test_a_projector_is_refused_by_a_bundle_that_sees_otherwise(model, tmp_path):
    bundle = tmp_path / "bundle"
    save_bundle(model, bundle, card="# Tiny\n", dtype=torch.bfloat16)
    was_trained(bundle)
    path = bundle / "llmbind.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"segment_prompt": "Cut {}"}))
    with pytest.raises(ValueError, match="sees otherwise"):
        speaking.give_projector(bundle, model, {})


def test_a_fitted_projection_replaces_a_bundle_s_own(tmp_path):
    projection = torch.nn.Linear(4, 3)
    own = {
        "prompt_projection.weight": torch.zeros(3, 4, dtype=torch.bfloat16),
        "prompt_projection.bias": torch.zeros(3, dtype=torch.bfloat16),
        "projector.weight": torch.ones(2),
    }
    save_file(own, tmp_path / HEADS_NAME)
    tensors = projection.state_dict()
    speaking.replace_heads(tmp_path, {f"prompt_projection.{n}": t for n, t in tensors.items()})
    written = load_file(tmp_path / HEADS_NAME)
    assert written.keys() == own.keys()
    assert torch.equal(written["prompt_projection.weight"], projection.weight.bfloat16())
    assert torch.equal(written["prompt_projection.bias"], projection.bias.bfloat16())
    assert torch.equal(written["projector.weight"], own["projector.weight"])


def test_a_bundle_is_given_another_decoder(model, tmp_path, monkeypatch):
    from dataclasses import replace

    from llmbind_cli.model.loader import load_model

    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    save_bundle(model, tmp_path / "bundle", card="# Tiny\n", dtype=torch.bfloat16)
    sight = model.config.sight
    necked = replace(sight, mask_decoder={**sight.mask_decoder, "neck_layers": 1})
    other = build(model.config.language_model.source, sight=necked, tasks=["image", "segment"])
    was_trained(tmp_path / "bundle")
    speaking.give_decoder(tmp_path / "bundle", other, {"steps": 7})
    loaded = load_model(str(tmp_path / "bundle"), device="cpu")
    assert loaded.config.sight.mask_decoder == necked.mask_decoder
    parts = ("mask_decoder", "prompt_projection")
    assert loaded.config.training["fitted"] == {key: {"steps": 7} for key in parts}
    assert "- Fitted apart, mask decoder: steps 7\n" in (tmp_path / "bundle/README.md").read_text()
    for name, head in loaded.sight.heads().items():
        giver = model if name.startswith("projector.") else other
        assert torch.equal(head, giver.sight.heads()[name].bfloat16().float()), name


def test_what_was_read_is_kept(model, tmp_path):
    torch.manual_seed(0)
    one = speaking.ReadPhrases(torch.randn(2, 3), ["the cat", "the red dog"])
    one.save(tmp_path / "states.pt")
    both = speaking.ReadPhrases.of([one, speaking.ReadPhrases.load(tmp_path / "states.pt")])
    assert torch.equal(both.states, one.states.repeat(2, 1))
    assert both.phrases == one.phrases * 2
    teacher = networks_of(model)
    prompts = both.prompts(teacher)
    torch.testing.assert_close(prompts[2], teacher.prompts(["the cat"])[0])


@pytest.fixture
def all_and_nothing(model):
    """Eight photos of noise; one state asks for all of each, the other for nothing."""
    torch.manual_seed(0)
    with torch.no_grad():
        maps = model.sight.grounding(torch.rand(8, 3, SIDE, SIDE))
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    labels[0] = 1
    asked = torch.randn(2, model.sight.projector.linear_2.out_features)
    return reading.ReadMasks(
        maps=tuple(one.bfloat16() for one in maps),
        states=asked.repeat(8, 1),
        labels=labels.repeat(8, 1, 1),
        image_of=torch.arange(8).repeat_interleave(2),
    )


def test_decoder_and_projection_learn_masks_of_states(model, all_and_nothing):
    own = {name: value.detach().clone() for name, value in model.sight.heads().items()}
    read = all_and_nothing
    maps = tuple(one.float() for one in read.maps)

    def right() -> float:
        with torch.no_grad():
            logits = model.sight.mask_logits(maps, read.states, read.image_of)
        wanted = torch.nn.functional.interpolate(read.labels[:, None].float(), logits.shape[-2:])
        return float(((logits > 0) == (wanted[:, 0] > 0)).float().mean())

    before = right()
    fitting.fit_masks(model.sight, read, steps=60, apart=read)
    assert right() > max(0.95, before)
    assert fitting.score(model.sight, read) > 0.9
    changed = {n.partition(".")[0] for n, v in model.sight.heads().items() if (v != own[n]).any()}
    assert changed == {"mask_decoder", "prompt_projection"}
    model.sight.load_heads(own)


def test_a_stopped_fit_goes_on_as_if_it_had_not_been(model, all_and_nothing, tmp_path, monkeypatch):
    own = {name: value.detach().clone() for name, value in model.sight.heads().items()}
    fit = partial(fitting.fit_masks, model.sight, all_and_nothing, steps=12)
    fit()
    at_once = {name: value.detach().clone() for name, value in model.sight.heads().items()}

    state, terms = tmp_path / "fit.pt", Terms(masks=16)
    monkeypatch.setattr(fitting, "_SAVE_EVERY", 5)
    losses, steps_left = fitting.mask_loss, [None] * 8

    def stopped_after_eight(*args):
        steps_left.pop()
        return losses(*args)

    monkeypatch.setattr(fitting, "mask_loss", stopped_after_eight)
    model.sight.load_heads(own)
    with pytest.raises(IndexError):
        fit(state=state, terms=terms)
    assert torch.load(state, weights_only=True)["step"] == 5
    monkeypatch.setattr(fitting, "mask_loss", losses)
    model.sight.load_heads(own)
    fit(state=state, terms=terms)
    assert all(torch.equal(value, at_once[name]) for name, value in model.sight.heads().items())
    with pytest.raises(SystemExit, match="with other masks: name another folder"):
        fit(state=state, terms=Terms(masks=8))
    model.sight.load_heads(own)


def test_a_decoder_of_another_shape_begins_with_what_fits(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    save_bundle(model, tmp_path / "bundle", card="# Tiny\n", dtype=torch.float32)
    sight = model.config.sight
    tower = dataclasses.replace(sight.vision_tower, strides=(32,), tuned_from=16)
    encoder = dataclasses.replace(sight.grounding_encoder, tuned_from=16)
    deeper = dataclasses.replace(
        sight, vision_tower=tower, grounding_encoder=encoder,
        object_tokens=ObjectTokens(most=3, names=5, colours=2, pieces=2),
        mask_decoder={"prompt_width": 128, "attended_maps": 1, "neck_layers": 2},
    )  # fmt: skip
    other = build(model.config.language_model.source, sight=deeper, tasks=["image", "segment"])
    decoder, stage = other.sight.mask_decoder, other.sight.projector.stage
    with torch.no_grad():
        stage.last.top.convolution.bias.fill_(0.25)
        stage.lateral.mix.bias.fill_(0.5)
    fitting.begin_as(other.sight, tmp_path / "bundle")
    assert (decoder.last.top.convolution.bias == 0.25).all()
    assert (decoder.coarse[-1].mix.bias == 0.5).all()
    earlier, now = model.sight.heads(), other.sight.heads()
    narrower = "prompt_projection.linear_2.weight"
    assert earlier[narrower].shape != now[narrower].shape  # and so it begins anew
    smaller = dataclasses.replace(deeper, mask_decoder=sight.mask_decoder)
    same = build(model.config.language_model.source, sight=smaller, tasks=["image", "segment"])
    same.sight.projector.stage = None
    fitting.begin_as(same.sight, tmp_path / "bundle")
    for name, head in model.sight.heads().items():
        if name.startswith(("mask_decoder.", "prompt_projection.")):
            assert torch.equal(same.sight.heads()[name], head), name


def pointing(model, **settings):
    """The same model with a projector that lists, at which its mask decoder may point."""
    sight = dataclasses.replace(
        model.config.sight,
        object_tokens=ObjectTokens(most=3, names=745, colours=11, pieces=2),
        mask_decoder={**model.config.sight.mask_decoder, **settings},
    )
    other = build(model.config.language_model.source, sight=sight, tasks=["image", "segment"])
    other.sight.projector.finding.bias.data[0] = 3.0  # finds something
    return other


def test_a_decoder_that_points_begins_with_one_that_does_not(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    plain, other = pointing(model), pointing(model, pointer_width=8)
    save_bundle(plain, tmp_path / "bundle", card="# Tiny\n", dtype=torch.float32)
    fitting.begin_as(other.sight, tmp_path / "bundle")
    maps, image_of = plain.sight.maps([Image.new("RGB", (9, 9), "red")]), torch.tensor([0, 0])
    things = grounding.nothing_listed(1, other.sight.mask_decoder.pointer.told_width)
    asked = torch.randn(2, len(plain.language_model.get_input_embeddings().weight[0]))
    with torch.no_grad():
        expected = plain.sight.mask_logits(maps, asked, image_of)
        torch.testing.assert_close(other.sight.mask_logits(maps, asked, image_of, things), expected)


def test_prompts_learn_to_point_at_what_is_listed(model, questions, world):
    """Read with some names missing; and the reader of phrases points at nothing."""
    other = pointing(model, pointer_width=8)
    embedding = other.language_model.get_input_embeddings()
    names = Names(embedding, other.tokenizer, ArrangementSampler(world, 0).known)
    samples = [questions[number] for number in range(8)]
    usual = reading.read_masks(other, samples)
    assert usual.things.places.shape == (8, 3, 2)
    read = reading.read_masks(other, samples, collated=StrangeLists(other.sight, names, 0.5))
    assert (read.things.told != usual.things.told).any()
    torch.testing.assert_close(read.things.places, usual.things.places, atol=0.02, rtol=0)
    learned, apart = reading.ReadMasks.of([read, read]).split(2)
    assert torch.equal(apart.things.places[:4], read.things.places[1::2])
    assert torch.equal(learned.things.told[4:], read.things.told[::2])
    with pytest.raises(ValueError, match="all that was read must tell of lists, or nothing"):
        reading.ReadMasks.of([read, dataclasses.replace(read, things=None)])
    # Three things stand at the same places everywhere; half of the masks mean the first one.
    places = torch.tensor([[0.25, 0.25], [0.75, 0.75], [0.25, 0.75]]).expand(8, -1, -1)
    told = torch.randn(3, read.things.told.shape[2]).expand(8, -1, -1)
    things = ListedThings(told, places, torch.ones(8, 3, dtype=torch.bool))
    labels = torch.zeros(16, SIDE, SIDE, dtype=torch.uint8)
    image_of = torch.arange(8).repeat_interleave(2)
    for mask, (x, y) in enumerate(places[:, :2].flatten(0, 1).mul(SIDE).long().tolist()):
        labels[mask, y - 2 : y + 2, x - 2 : x + 2] = 1
    meant = reading.meant_things(labels, things, image_of)
    assert meant.tolist() == [0, 1] * 8
    assert reading.meant_things(labels, things._replace(places=places / 2), image_of)[1] == -1
    read = dataclasses.replace(
        read, states=torch.randn(2, read.states.shape[1]).repeat(8, 1), labels=labels,
        image_of=image_of, things=things,
    )  # fmt: skip
    before = other.sight.mask_decoder.pointed.clone()
    fitting.fit_masks(other.sight, read, steps=60, lr=1e-2)
    decoder = other.sight.mask_decoder
    queries = other.sight.prompt_projection(read.states)[:, -8:]
    scores = decoder.pointer.scores(queries, read.listed(), image_of)
    assert (scores.argmax(1) == meant).all()
    assert (decoder.pointed != before).any()
    networks = grounding.Grounding(other.sight, embedding, other.tokenizer)
    asking = grounding.Asking(names=names, questions=questions, sight=other.sight, kept=5)
    logits, _ = networks(asking.look(range(2)), [(0, 0), (1, 0)])
    assert logits.shape[0] == 2


def test_what_has_no_sure_name_is_weighed_anew(model, all_and_nothing):
    """Where words tell nothing, the thing that is meant is the one whose name is unsure."""
    sight = pointing(model, pointer_width=8).sight
    pictures = len(all_and_nothing.maps[0])
    unsure = torch.arange(pictures) % 3
    told = torch.zeros(pictures, 3, sight.mask_decoder.pointer.told_width)
    told[..., SURENESS] = torch.tensor([1.0, 0.0])
    told[torch.arange(pictures), unsure, SURENESS] = torch.tensor([0.4, 2.0])
    places = torch.tensor([[0.25, 0.25], [0.75, 0.75], [0.25, 0.75]]).expand(pictures, -1, -1)
    things = ListedThings(told, places, torch.ones(pictures, 3, dtype=torch.bool))
    labels = torch.zeros(pictures, SIDE, SIDE, dtype=torch.uint8)
    for label, (x, y) in zip(labels, (places[0, unsure] * SIDE).long().tolist(), strict=True):
        label[y - 2 : y + 2, x - 2 : x + 2] = 1
    states = torch.randn(pictures, all_and_nothing.states.shape[1])
    image_of = torch.arange(pictures)
    apart = dataclasses.replace(
        all_and_nothing, states=states, labels=labels, image_of=image_of, things=things
    )
    before = {name: value.detach().clone() for name, value in sight.heads().items()}
    fitting.calibrate(sight, apart)
    with torch.no_grad():
        scores = fitting._scores(sight, states, things, image_of)
    assert torch.equal(scores.argmax(1), unsure)
    changed = [name for name, value in sight.heads().items() if (value != before[name]).any()]
    assert changed == ["mask_decoder.pointer.usual.weight"]
    fitting.calibrate(model.sight, all_and_nothing)  # lists nothing, so there is nothing to weigh


def test_what_is_listed_becomes_the_prompts_of_words_for_it(model, all_and_nothing):
    """Of twelve things in as many pictures, each the only one there, and so the one meant."""
    sight = pointing(model, pointer_width=8, pointer_trust=0.5).sight
    decoder, count = sight.mask_decoder, 12
    torch.manual_seed(0)
    told = 30 * torch.randn(count, 1, decoder.pointer.told_width)
    middle = torch.full((count, 1, 2), 0.5)
    things = ListedThings(told, middle, torch.ones(count, 1, dtype=torch.bool))
    states = torch.randn(count, all_and_nothing.states.shape[1])
    read = reading.ReadMasks(
        maps=tuple(scale[:1].expand(count, -1, -1, -1) for scale in all_and_nothing.maps),
        states=states,
        labels=torch.ones(count, SIDE, SIDE, dtype=torch.uint8),
        image_of=torch.arange(count),
        things=things,
    )
    assert not decoder.listed.weight.any()
    fitting.say_what_is_listed(sight, read)
    with torch.no_grad():
        prompts = sight.prompt_projection(states)[:, :-8]
        torch.testing.assert_close(decoder.listed(told[:, 0]), prompts, atol=0.02, rtol=0)
    fitting.say_what_is_listed(model.sight, all_and_nothing)  # lists nothing


def test_what_a_decoder_was_told_is_left_out_while_it_learns(model):
    telling = pointing(model, pointer_width=8, pointer_trust=0.5, pointer_unnamed=2.0)
    decoder = telling.sight.mask_decoder
    with fitting.as_learned(decoder):
        assert (decoder.pointer_trust, decoder.pointer.unnamed) == (None, 0.0)
    assert (decoder.pointer_trust, decoder.pointer.unnamed) == (0.5, 2.0)
    with fitting.as_learned(model.sight.mask_decoder):  # does not point
        pass


def test_a_decoder_may_learn_while_prompts_stay(model, all_and_nothing):
    sight = pointing(model, pointer_width=8).sight
    count = len(all_and_nothing.maps[0])
    told = torch.zeros(count, 3, sight.mask_decoder.pointer.told_width)
    listed = ListedThings(told, torch.rand(count, 3, 2), torch.ones(count, 3, dtype=torch.bool))
    read = dataclasses.replace(all_and_nothing, things=listed)
    before = {name: value.detach().clone() for name, value in sight.heads().items()}
    fitting.fit_masks(sight, read, steps=2, kept_prompts=True)
    changed = {name for name, value in sight.heads().items() if (value != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {"mask_decoder"}
    assert not [name for name in changed if ".pointer." in name]


def test_read_masks_are_kept_put_together_and_set_apart(model, questions, tmp_path):
    samples = [questions[number] for number in (0, 1, 2)]
    whole = reading.read_masks(model, samples)
    counts = [len(sample.segments) for sample in samples]
    assert torch.bincount(whole.image_of).tolist() == counts
    assert whole.labels.shape[1:] == (64, 64)
    twice = reading.read_masks(model, [*samples, samples[0]], finer=4)
    assert len(twice.maps[0]) == 3  # a picture is kept once
    assert twice.image_of.tolist()[-counts[0] :] == [0] * counts[0]
    assert twice.labels.shape[1:] == (16, 16)
    full, coarse = whole.labels.float().mean((1, 2)), twice.labels.float().mean((1, 2))
    torch.testing.assert_close(coarse[: len(full)], full, atol=0.05, rtol=0)
    whole.save(tmp_path / "masks.pt")
    both = reading.ReadMasks.of([whole, reading.ReadMasks.load(tmp_path / "masks.pt")])
    assert both.image_of.tolist() == [*whole.image_of.tolist(), *(whole.image_of + 3).tolist()]
    learned, apart = both.split(3)
    assert torch.equal(apart.states, whole.states[whole.image_of == 2].repeat(2, 1))
    assert torch.equal(learned.image_of[-counts[1] :], torch.full((counts[1],), 3))
    assert all(torch.equal(a[1], b[2]) for a, b in zip(apart.maps, whole.maps, strict=True))
    assert len(learned.maps[0]) == 4
    assert len(learned.labels) + len(apart.labels) == len(both.labels)
    left_out = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    left_out[0, :2] = 1
    assert reading._coarser(left_out, 2).tolist() == [[[1, 1], [255, 255]]]


def test_states_tell_the_prompts_that_they_hold(monkeypatch):
    torch.manual_seed(0)
    states, truth = torch.randn(2400, 6), torch.nn.Linear(6, 3)
    with torch.no_grad():
        prompts = truth(states)
    projection = torch.nn.Linear(6, 3)
    assert speaking.fit(projection, states, prompts) > 0.9
    # It begins anew: what it knew of the pairs set apart would make it look better than it is.
    monkeypatch.setattr(speaking, "_EPOCHS", 1)
    assert speaking.fit(projection, states, prompts) < 0.5


def test_held_out_scenes_and_drawings_are_what_eval_reads(world, renderer, tmp_path):
    held_out.write_held_out(tmp_path, world, renderer, (), count=4)
    counts = {"train": 1, "held_out": 20}
    drawings.draw_all(FakeGenerator(), world, tmp_path / "drawn", seed=5, counts=counts)
    scenes = Scenes(world, renderer, ())
    held_out.write_drawings(tmp_path, tmp_path / "drawn", scenes, count=4)
    for row in (*held_out.ROWS, "drawings"):
        folder = tmp_path / row
        lines = {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in folder.glob("*.jsonl")
        }
        assert len(lines["asked"]) == 16
        assert {line["task"] for line in lines["asked"]} == {"segment", "text"}
        assert all(line["answer"] for line in lines["answers"])
        assert {line["answer"] for line in lines["near"]} == {"Yes.", "No."}
        for kind in ("refer", "spatial", "reason"):
            ids = [line["id"] for line in lines[kind]]
            assert [line["id"] for line in lines[f"{kind}-masks"]] == ids
            assert all("<seg>" in line["reply"] for line in lines[kind])
        shown = [*lines["asked"], *lines["near"]]
        assert all((folder / line["image"]).is_file() for line in shown)


def test_a_suite_has_a_picture_and_a_caption_for_each_wish_and_question(world, renderer, tmp_path):
    held_out.write_suite(tmp_path, world, renderer, count=2)
    masks = [*read_mask_set(tmp_path / "refer-masks.jsonl").items]
    asked = [read_requests(str(tmp_path / f"{name}.jsonl")) for name in ("refer", "answers")]
    assert [one.id for one in asked[0]] == masks
    captions = read_requests(str(tmp_path / "captions.jsonl"))
    assert [one.id for one in captions] == [one.id for lines in asked for one in lines]
    pictures = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {one.id for one in captions}
    assert all(one.images[0].is_file() for lines in asked for one in lines)
