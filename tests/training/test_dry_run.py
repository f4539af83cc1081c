"""Dry runs: what they count, without weights and without a tokenizer, and how they end."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from tiny_binding_model import build
from tiny_dialogues import TAG_CALL_AND_CUT_REPLY
from tiny_language_models import SIZES, save_base
from tiny_tokenizers import byte_level
from tiny_vision import light_sight, save_efficientnet
from transformers import AutoModelForCausalLM

from llmbind_cli.console import console
from llmbind_cli.data.captions import CaptionSets
from llmbind_cli.data.dialogues import build_dialogues
from llmbind_cli.data.encode import encode_dialogue
from llmbind_cli.errors import ConfigurationError, InputDataError, ModelNotFoundError
from llmbind_cli.model.vision.without_weights import sight_without_weights
from llmbind_cli.recipes.locate import shared_folder
from llmbind_cli.tokens import TASK_TOKENS, register_task_tokens
from llmbind_cli.training.parameters import count_sight
from llmbind_cli.training.rendering import rendered, segments_of_dialogue, segments_of_ids
from llmbind_cli.training.run import train

RECIPE_7B = shared_folder("recipes") / "llmbind-7b.toml"


def report_of(recipe, capsys, *overrides, **options):
    """The JSON object that a dry run writes, and the error that it ends with."""
    console.json = True
    error = None
    try:
        assert train(recipe, dry_run=True, overrides=overrides, **options) == 0
    except InputDataError as raised:
        error = raised
    return json.loads(capsys.readouterr().out), error


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def described(recipe):
    """The recipe of a base that is nowhere, with its architecture."""
    fields = {**SIZES, "vocab_size": 700, "tie_word_embeddings": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    table = "\n".join(["[model.architecture]", 'model_type = "llama"', *lines])
    text = recipe.read_text().replace("[lora_moe]", f"{table}\n[lora_moe]", 1)
    recipe.write_text(text.replace(text.split('"')[1], "hf:nobody/nothing@0000000"))
    return recipe


def test_the_paper_s_recipe_is_counted_offline_without_weights(no_cache, capsys):
    report, error = report_of(RECIPE_7B, capsys, offline=True)
    assert error is None
    parts = report["parameters"]["parts"]
    # By hand: 16 layers of gate, up and down with 4 experts of rank 8, widths 4096 and 11008.
    assert parts["lora_A"]["total"] == 16 * 32 * (4096 + 4096 + 11008)
    assert parts["lora_B"]["total"] == 16 * 32 * (11008 + 11008 + 4096)
    assert parts["routers"]["total"] == 16 * 4 * (4096 + 4096 + 11008)
    assert parts["token_rows"]["total"] == 9 * 4096 * 2
    # ViT-L/14 and SAM ViT-H without their own decoder, as transformers counts the published ones.
    assert parts["vision_tower"] == {"total": 303_179_776, "trainable": 0}
    assert parts["grounding_encoder"] == {"total": 637_026_048, "trainable": 0}
    assert parts["projector"]["trainable"] == 1025 * 4096 + 4097 * 4096
    assert parts["prompt_projection"]["trainable"] == 4097 * 4096 + 4097 * 256
    assert 4_000_000 < parts["mask_decoder"]["trainable"] < 4_100_000
    assert parts["base"] == {"total": 6_738_415_616, "trainable": 0}
    assert report["parameters"]["adapters"] == 23_199_744
    assert round(100 * report["parameters"]["adapters_of_base"], 3) == 0.344
    assert report["schedule"]["steps"] == {"1": 15_000, "8": 15_000}
    assert report["schedule"]["dialogues_per_step"] == {"1": 20, "8": 160}
    assert report["memory"]["zero_stage"] == 2
    assert report["data"]["lengths"] == "estimated"
    assert len(report["samples"]) == 3


def test_counts_are_those_of_the_model_that_trains(recipe, capsys):
    report, _ = report_of(recipe, capsys)
    console.json = False
    train(recipe, output=recipe.parent / "run", overrides=["train.steps=1"])
    counts = report["parameters"]
    said = f"parameters: {counts['trainable']:,} of {counts['total']:,} train"
    assert said in capsys.readouterr().err


def test_no_weights_are_read_for_it(recipe, capsys, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    report, error = report_of(recipe, capsys)
    assert error is None
    assert report["base"]["counted_from"] == "cache"
    assert report["data"]["lengths"] == "measured"


def test_a_network_that_is_tower_and_encoder_counts_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMBIND_CACHE", str(tmp_path / "cache"))
    config = light_sight(save_efficientnet(tmp_path / "net"))
    tasks = ["image", "segment"]

    def counted(config):
        sight = sight_without_weights(config, architectures={}, hidden_size=32, tasks=tasks)
        return count_sight(sight).parts

    parts = counted(config)
    model = build(save_base(tmp_path / "base"), sight=config, tasks=tasks)
    assert parts == count_sight(model.sight).parts
    assert parts["vision_tower"].total > 3_000_000
    assert parts["grounding_encoder"].total == 0
    other = dataclasses.replace(config.grounding_encoder, sha256="0" * 64)
    parts = counted(dataclasses.replace(config, grounding_encoder=other))
    assert parts["grounding_encoder"] == parts["vision_tower"]


@pytest.mark.parametrize(("family", "rows"), [("llama", 1), ("qwen", 2)])
def test_tied_and_untied_bases_have_their_rows(family, rows, recipe, tmp_path, capsys):
    base = save_base(tmp_path / family, family)
    report, _ = report_of(recipe, capsys, f"model.base={base}")
    assert report["parameters"]["parts"]["token_rows"]["total"] == rows * 8 * 32


def test_a_base_that_is_not_cached_is_counted_from_the_recipe(described, no_cache, capsys):
    report, error = report_of(described, capsys, offline=True)
    assert error is None
    assert report["base"]["counted_from"] == "recipe"
    assert report["parameters"]["parts"]["lora_A"]["total"] == 2 * 3 * 2 * (32 + 32 + 48)
    assert report["data"]["sources"][0]["dialogues"] == 24


def test_without_architecture_a_base_must_be_there(described, no_cache):
    text = described.read_text()
    start, end = text.index("[model.architecture]"), text.index("[lora_moe]")
    described.write_text(text[:start] + text[end:])
    with pytest.raises(ModelNotFoundError, match="nobody/nothing"):
        train(described, dry_run=True, offline=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture.hiden_size=32", "unknown key model.architecture.hiden_size.*hidden_"),
        ('model.architecture.model_type="lama"', "model_type must be .*; did you mean llama"),
        ('model.architecture.hidden_size="wide"', "hidden_size"),
        ("model.architecture.hidden_size=33", "multiple of the number of attention heads"),
    ],
)
def test_a_wrong_architecture_is_refused(override, message, described, no_cache):
    with pytest.raises(ConfigurationError, match=message):
        train(described, dry_run=True, overrides=[override], offline=True)


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_architecture_that_is_not_the_base_s_is_refused(
    dry_run, described, trained_base, tmp_path
):
    overrides = [f"model.base={trained_base}", "model.architecture.num_hidden_layers=6"]
    with pytest.raises(
        ConfigurationError, match="num_hidden_layers is 6 in the recipe and 4 in the base"
    ):
        train(described, dry_run=dry_run, overrides=overrides, output=tmp_path / "run")


def test_missing_data_are_listed_after_everything_else_was_counted(recipe, capsys):
    extra = '[[data]]\nname = "vqa"\nkind = "conversations"\npaths = ["a.json", "b.json"]\n'
    recipe.write_text(recipe.read_text().replace("[optim]", f"{extra}[optim]"))
    report, error = report_of(recipe, capsys)
    assert [problem.rpartition("/")[2] for problem in report["problems"]] == [
        "a.json is missing",
        "b.json is missing",
    ]
    assert report["data"]["sources"][0]["dialogues"] == 24
    assert report["parameters"]["trainable"] > 0
    assert error.exit_code == 65
    assert "vqa: " in str(error)


def test_malformed_data_and_too_long_dialogues_are_problems(recipe, tmp_path, capsys):
    report, error = report_of(recipe, capsys, "train.max_tokens=10")
    assert "more than train.max_tokens = 10" in report["problems"][0]
    assert report["data"]["sources"] == []
    assert report["compute"] is None
    assert error is not None


def test_epochs_become_steps_of_one_device_and_of_eight(recipe, capsys):
    recipe.write_text(recipe.read_text().replace("steps = 20", "epochs = 4"))
    report, _ = report_of(recipe, capsys)
    assert report["schedule"]["steps"] == {"1": 12, "8": 2}  # 24 / 4 batches × 4 epochs / 2
    report, _ = report_of(recipe, capsys, "train.holdout=0.25")
    assert report["schedule"]["steps"]["1"] == 10  # 18 dialogues are 5 batches


def test_what_the_memory_is_counted_for(recipe, capsys):
    report, _ = report_of(recipe, capsys, "train.max_tokens=512", device="cuda")
    memory = report["memory"]
    assert (memory["device"], memory["dtype"], memory["tokens"]) == ("cuda", "float32", 512)
    assert [(row["zero_stage"], row["devices"]) for row in memory["model"]] == [
        (stage, devices) for stage in range(4) for devices in (1, 8)
    ]
    fused = memory["activations"]["without_checkpointing"]["kept_gib"]
    report, _ = report_of(recipe, capsys, "train.max_tokens=512", device="cpu")
    assert report["memory"]["activations"]["without_checkpointing"]["kept_gib"] > fused


def test_the_text_says_it_all_on_stdout(recipe, capsys):
    train(recipe, dry_run=True)
    written = capsys.readouterr()
    for words in (
        "parameters",
        "adapters (lora_A + lora_B): ",
        "talk  conversations         24        24",
        "1 device: 20 steps of 1 × 4 × 2 = 8 dialogues, 6.67 passes",
        "ZeRO 3, 8 devices",
        "with gradient checkpointing",
        "by arithmetic and not measured",
        "⟦Here:‹<gen>›",
        "user\nis a red apple red?",
    ):
        assert words in written.out.replace("\n  ", "\n"), words


def test_the_mask_of_ids_is_visible_and_a_typed_tag_stays_text():
    tokenizer = byte_level()
    table = register_task_tokens(tokenizer, TASK_TOKENS)
    sample = encode_dialogue(TAG_CALL_AND_CUT_REPLY, tokenizer, table, decision_weight=2.0)
    segments = segments_of_ids(sample, tokenizer, table)
    assert "".join(s.text for s in segments) == tokenizer.decode(sample.ids)
    assert [s.text for s in segments if s.task_token] == ["<gen>", "</gen>"]
    text = rendered(segments)
    assert "draw <gen>a cat</gen>" in text
    assert "⟦Here:‹<gen>› a cat‹</gen>›<|im_end|>⟧" in text
    assert "⟦Rain falls⟧<|im_end|>" in text


def test_the_mask_of_turns_is_that_of_ids_without_the_frame():
    text = rendered(segments_of_dialogue(TAG_CALL_AND_CUT_REPLY, TASK_TOKENS))
    assert text.split("\n") == [
        "USER: draw <gen>a cat</gen>",
        "ASSISTANT: ⟦Here: ‹<gen>›a cat‹</gen>›⟧",
        "USER: a red apple",
        "ASSISTANT: ⟦Rain falls⟧",
    ]


def test_a_terminal_gets_colours_and_no_color_is_honoured(monkeypatch):
    segments = segments_of_dialogue(TAG_CALL_AND_CUT_REPLY, TASK_TOKENS)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = rendered(segments)
    assert "\x1b[32mHere: \x1b[0m\x1b[7;32m<gen>\x1b[0m\x1b[32ma cat\x1b[0m" in text
    assert "draw <gen>a cat</gen>" in text
    assert "⟦" not in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in rendered(segments)


def test_estimated_lengths_are_near_those_of_a_real_tokenizer(embedded_base):
    """The rule of docs/training.md, on dialogues of the builder: at most a third too long."""
    from llmbind_cli.model.language_model import load_tokenizer
    from llmbind_cli.training.survey import estimated_length

    tokenizer = load_tokenizer(embedded_base)
    table = register_task_tokens(tokenizer, TASK_TOKENS)
    dialogues = list(build_dialogues(count=200, seed=0, captions=CaptionSets(), talk=[]))
    measured = sum(
        len(encode_dialogue(d, tokenizer, table, decision_weight=1.0).ids) for d in dialogues
    )
    assert 1 <= sum(map(estimated_length, dialogues)) / measured < 4 / 3
