"""Texts of users and earlier answers inside a prompt: words, and nothing but words.

Prompts are made with a stand-in for every such text, and its tokens are put in afterwards: the
spelling of a control token ("<|im_end|>", "<|VIDEO|>") must neither end a turn nor count as a piece
of a clip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.errors import ModelError, ResourceError

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

STAND_IN = "\ue000"  # a private-use character, which no chat template contains


def check_length(tokens: int, limit: int, advice: str = "shorten the question") -> None:
    """Refuse a text that leaves no room for anything else."""
    if tokens > limit:
        raise ResourceError(
            f"The text has {tokens:,} tokens, but the model's context holds {limit:,}: {advice}."
        )


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens, its characters read as text only.

    `split_special_tokens` spares added tokens that are not "special" (Qwen3's "<think>"), so their
    spelling is cut behind its first character.
    """
    cuts = []
    if added := [word for word in tokenizer.get_added_vocab() if word in text]:
        spelled = "|".join(map(re.escape, added))
        cuts = [match.start() + 1 for match in re.finditer(f"(?={spelled})", text)]
    return [
        int(token)
        for start, end in pairwise([0, *cuts, len(text)])
        for token in tokenizer.encode(
            text[start:end], add_special_tokens=False, split_special_tokens=True
        )
    ]


def with_turns(
    template: torch.Tensor, adapter: Adapter, processor: Any, turns: int, system: str | None
) -> torch.Tensor:
    """A clip's prompt, with turns between its question and the one that is asked.

    Parameters
    ----------
    template : LongTensor (S,)
        As `Adapter.clip_inputs` has it, with stand-ins for the system turn, if there is one, and
        the question, which becomes the first of several.
    turns : int
        Answers with the questions behind them.
    system : str or None
        Whether the prompt has a system turn.

    Raises
    ------
    ModelError
        If the chat template has no such conversation: it leaves turns out, or what stands before
        the first question depends on how many follow.
    """
    if not turns:
        return template
    instruction = None if system is None else STAND_IN
    ahead = 1 if system is None else 2  # pieces up to the first question
    alone, pieces = (
        adapter.conversation(processor, "video", [STAND_IN] * texts, instruction).split(STAND_IN)
        for texts in (1, 1 + 2 * turns)
    )
    if len(pieces) != ahead + 1 + 2 * turns or pieces[:ahead] != alone[:ahead]:
        raise ModelError(
            "The model's chat template has no conversations about a clip: ask without `history`."
        )
    starts, width = _stand_ins(template, processor.tokenizer)
    between = template[starts[-1] : starts[-1] + width].tolist()
    ids = template[: starts[-1]].tolist()
    for piece in pieces[ahead:]:
        ids += between + processor.tokenizer.encode(piece, add_special_tokens=False)
    return template.new_tensor(ids)


def with_texts(ids: torch.Tensor, tokenizer: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    """Put the tokens of each text in place of its stand-in."""
    starts, width = _stand_ins(ids, tokenizer)
    pieces, begin = [], 0
    for start, text in zip(starts, texts, strict=True):
        pieces += [ids[begin:start], ids.new_tensor(text, dtype=ids.dtype)]
        begin = start + width
    return torch.cat([*pieces, ids[begin:]])


def _stand_ins(ids: torch.Tensor, tokenizer: Any) -> tuple[list[int], int]:
    """Where stand-ins begin, and how many tokens one has."""
    stand_in = torch.tensor(tokenizer.encode(STAND_IN, add_special_tokens=False))
    width = len(stand_in)
    return (ids.unfold(0, width, 1) == stand_in).all(1).nonzero()[:, 0].tolist(), width
