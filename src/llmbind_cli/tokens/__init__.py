"""Task tokens: one table, one way to encode text, one reply parser.

A binding model answers in text in which *task tokens* name what else is to be done
(LLMBind, arXiv 2402.14891, section 3.2). A pair such as the image pair encloses the prompt for a
frozen generator; a single token hands its hidden state to a decoder. UnifiedMLLM
(arXiv 2408.02503) adds pairs whose content is a region.

Everything here works on token *ids*. Task tokens are registered as special tokens, and each span
that a user supplied is encoded on its own without them, so nothing a user types becomes a control
token.
"""

from __future__ import annotations

from llmbind_cli.tokens.encoding import (
    control_tokens,
    encode_reply_text,
    encode_user_text,
    require_whole_characters,
)
from llmbind_cli.tokens.reply import (
    ReplyError,
    TaskCall,
    parse_reply,
    phrase_before,
    reply_text,
)
from llmbind_cli.tokens.table import (
    CLOSING_INIT_WORDS,
    TASK_TOKENS,
    Payload,
    TaskToken,
    TokenTable,
    register_task_tokens,
    tasks_named,
)

__all__ = [
    "CLOSING_INIT_WORDS",
    "TASK_TOKENS",
    "Payload",
    "ReplyError",
    "TaskCall",
    "TaskToken",
    "TokenTable",
    "control_tokens",
    "encode_reply_text",
    "encode_user_text",
    "parse_reply",
    "phrase_before",
    "register_task_tokens",
    "reply_text",
    "require_whole_characters",
    "tasks_named",
]
