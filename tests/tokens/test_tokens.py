"""The token table, user text that stays text, and the reply parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbind_cli.errors import IntegrityError
from llmbind_cli.tokens import (
    TASK_TOKENS,
    Payload,
    ReplyError,
    TaskToken,
    TokenTable,
    control_tokens,
    encode_reply_text,
    encode_user_text,
    parse_reply,
    register_task_tokens,
    reply_text,
    tasks_named,
)

SPELLINGS = [spelling for token in TASK_TOKENS for spelling in token.spellings]
ALIASES = ["<video_cap>", "</video_cap>", "<audio_cap>", "</audio_cap>", "<image>", "[SEG]"]
TEMPLATE_MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<|im_start|>system\n",
    "<|tool_call|>",
    "<unk>",
]
LOOKALIKES = [
    "＜gen＞",
    "‹gen›",
    "〈gen〉",
    "<ɡen>",
    "<g\u200ben>",
    "<\u00adgen>",
    "＜/gen＞",
    "<ＧＥＮ>",
    "<gen\u0301>",
    "&lt;gen&gt;",
    "<GEN>",
    "< gen >",
    "<gen>\u202e",
    "<ꮪeg>",
    "<ѕeg>",
]
FRAGMENTS = st.sampled_from(SPELLINGS + ALIASES + TEMPLATE_MARKERS + LOOKALIKES)
USER_TEXT = st.lists(
    st.one_of(
        FRAGMENTS, st.text(max_size=12), st.sampled_from(["draw a cat ", " ", "\n", "<", ">"])
    ),
    max_size=12,
).map("".join)


@settings(max_examples=2500, deadline=None, derandomize=True)
@given(text=USER_TEXT)
def test_user_text_never_becomes_a_control_token(bound_tokenizer, text):
    tokenizer = bound_tokenizer
    ids = encode_user_text(tokenizer, text)
    assert control_tokens(tokenizer).keys().isdisjoint(ids)
    assert set(tokenizer.all_special_ids).isdisjoint(ids)


@pytest.mark.parametrize("text", SPELLINGS + TEMPLATE_MARKERS)
def test_spelled_tokens_survive_as_text(byte_level_tokenizer, text):
    ids = encode_user_text(byte_level_tokenizer, f"say {text} twice")
    assert byte_level_tokenizer.decode(ids) == f"say {text} twice"


def test_a_marker_added_as_a_plain_token_is_cut_apart(byte_level_tokenizer):
    byte_level_tokenizer.add_tokens(["<|tool|>"])
    ids = encode_user_text(byte_level_tokenizer, "x <|tool|> y")
    assert byte_level_tokenizer.convert_tokens_to_ids("<|tool|>") not in ids
    assert byte_level_tokenizer.decode(ids) == "x <|tool|> y"


def test_every_spelling_is_one_special_id(bound_tokenizer):
    table = TokenTable.of(bound_tokenizer)
    assert sorted(table.ids) == sorted(SPELLINGS)
    assert len(set(table.ids.values())) == len(SPELLINGS)
    assert set(table.ids.values()) <= set(bound_tokenizer.all_special_ids)


def test_a_tokenizer_without_task_tokens_is_refused(bare_tokenizer):
    with pytest.raises(IntegrityError, match=r"<gen> \(\d+ ids\)"):
        TokenTable.bind(bare_tokenizer, TASK_TOKENS)


def test_a_token_added_without_special_is_refused(bare_tokenizer):
    bare_tokenizer.add_tokens(SPELLINGS)
    with pytest.raises(IntegrityError, match="<gen>"):
        TokenTable.bind(bare_tokenizer, TASK_TOKENS)


def test_registering_keeps_the_tokenizers_own_special_tokens(bare_tokenizer):
    before = set(bare_tokenizer.all_special_tokens)
    register_task_tokens(bare_tokenizer, TASK_TOKENS)
    assert before <= set(bare_tokenizer.all_special_tokens)


def test_only_one_place_spells_tokens_of_unknown_tasks():
    with pytest.raises(ValueError, match="unknown task smell; known: image"):
        tasks_named(["image", "smell"])


@pytest.mark.parametrize(
    "text",
    ["Here: <gen>a red apple</gen> Enjoy!", "Here:<gen> a red apple </gen> Enjoy!"],
)
def test_white_space_beside_tokens_does_not_matter(bound_tokenizer, text):
    table = TokenTable.of(bound_tokenizer)
    ids = encode_reply_text(bound_tokenizer, text, table)
    assert reply_text(ids, bound_tokenizer, table) == "Here: <gen>a red apple</gen> Enjoy!"
    (call,) = parse_reply(ids, bound_tokenizer)
    assert (call.task, call.prompt) == ("image", "a red apple")
    assert ids[call.position] == table.ids["<gen>"]


def parsed(tokenizer, text):
    return parse_reply(encode_reply_text(tokenizer, text, TokenTable.of(tokenizer)), tokenizer)


def test_all_calls_come_back_in_order(bound_tokenizer):
    calls = parsed(
        bound_tokenizer,
        "Sure. <vid_cap>surf, slow motion</vid_cap> and <aud_cap>waves</aud_cap>, then <seg>.",
    )
    assert [(c.task, c.prompt) for c in calls] == [
        ("video", "surf, slow motion"),
        ("audio", "waves"),
        ("segment", ""),
    ]
    assert [c.position for c in calls] == sorted(c.position for c in calls)


def test_plain_talk_has_no_call(bound_tokenizer):
    assert parsed(bound_tokenizer, "Rain falls when clouds cool.") == []


def test_tags_in_user_text_are_no_calls(bound_tokenizer):
    ids = encode_user_text(bound_tokenizer, "<gen>a dog</gen> <seg>")
    assert parse_reply(ids, bound_tokenizer) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Here: <gen>a red app", "truncated"),
        ("<gen>a <edit>red</edit></gen>", "nested"),
        ("<gen>a <seg></gen>", "nested"),
        ("<gen>a red</edit>", "crossed"),
        ("a red</gen>", "unopened"),
        ("<gen> </gen>", "empty"),
    ],
)
def test_broken_replies_are_errors_that_keep_the_reply(bound_tokenizer, text, kind):
    with pytest.raises(ReplyError) as caught:
        parsed(bound_tokenizer, text)
    assert caught.value.kind == kind
    assert caught.value.reply.replace(" ", "") == text.replace(" ", "")
    assert caught.value.exit_code == 3


REGION = TaskToken(
    task="region", open="<box>", close="</box>", payload=Payload.REGION, init_words=(" box",)
)


@pytest.mark.parametrize(
    ("content", "region"),
    [
        ("[0.1, 0.25, 0.5, 1]", (0.1, 0.25, 0.5, 1.0)),
        ("[0,0,1,1]", (0.0, 0.0, 1.0, 1.0)),
        ("[0.5, 0.25, 0.1, 1]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 1.5]", None),
        ("left half", None),
    ],
)
def test_the_table_has_room_for_pairs_with_grounding_content(bare_tokenizer, content, region):
    table = register_task_tokens(bare_tokenizer, [REGION])
    ids = encode_reply_text(bare_tokenizer, f"Here: <box>{content}</box>", table)
    if region is None:
        with pytest.raises(ReplyError, match=r"no \[x1, y1, x2, y2\]"):
            parse_reply(ids, bare_tokenizer, table)
    else:
        (call,) = parse_reply(ids, bare_tokenizer, table)
        assert call.region == region


def test_a_pair_with_a_hidden_state_is_refused():
    with pytest.raises(ValueError, match="a hidden-state token is single"):
        TaskToken(task="x", open="<x>", close="</x>", payload=Payload.HIDDEN_STATE, init_words=())
