"""Rows of well-known datasets as messages or pairs: what their columns mean.

A shape is a function of a row, the settings of `dataset_kwargs` and the subset; `data/sources/registered.py` says which
dataset has which. Nothing here imports anything heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainwright.errors import DataError

Row = Mapping[str, Any]
Made = dict[str, Any]
Shape = Callable[[Row, Any, "str | None"], Made]

_TASK = "Below is an instruction that describes a task"
_INPUT = ", paired with an input that provides further context"
_ANSWER = "Write a response that appropriately completes the request."
_SHORT_SPAN = "Answer the following question with a short span."
_CHATQA = {
    "sft": None,
    "synthetic_convqa": "Please give a full and complete answer for the question.",
    **dict.fromkeys(
        ("tatqa", "tatqa-arithmetic"),
        "Answer the following question with a number from context or the math arithmetic",
    ),
    "tatqa-others": "Answer the following question with a short span, or a full and complete answer",
    **dict.fromkeys(("drop", "narrativeqa", "quoref", "ropes", "squad1.1", "squad2.0", "newsqa"), _SHORT_SPAN),
}
_CHATQA_DOCUMENT = "Only use the information from the user provided context to answer the question."
QUESTIONS = ("instruction", "question", "query")
"""What columns are called that hold what is asked."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def messages(*turns: tuple[str, str | None]) -> Made:
    """Return a conversation of (role, content), without turns that are None."""
    return {"messages": [{"role": role, "content": content} for role, content in turns if content is not None]}


def needed(row: Row, *names: str) -> list[str]:
    """Return columns of texts.

    Raises:
        DataError: one is missing, None, or no text.
    """
    for name in names:
        if row.get(name) is None:
            what = "None in" if name in row else "no column"
            there = "" if name in row else f"; it has {', '.join(row)}"
            raise DataError(f"{what} '{name}'{there}")
    return [_text(row[name], name) for name in names]


def _text(value: Any, name: str) -> str:
    """Return a text, or a number as one; nothing is an empty text."""
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"'{name}' holds a {type(value).__name__}, {value!r:.60}, where a text is expected")
    return "" if value is None else str(value)


def alpaca(row: Row, settings: Any, subset: str | None) -> Made:
    """`instruction`, `input` where there is one, and `output`; with Alpaca's system prompt, unless it is off."""
    instruction, output = needed(row, "instruction", "output")
    given = _text(row.get("input"), "input")
    asked = f"{instruction}\n\n### Input:\n{given}" if given else instruction
    system = f"{_TASK}{_INPUT if given else ''}. {_ANSWER}" if settings.include_system_prompt else None
    return messages(("system", system), ("user", asked), ("assistant", output))


def instructed(row: Row, settings: Any, subset: str | None) -> Made:
    """A file of one's own in Alpaca's columns: the input follows the instruction; `system` and `history` go before. A
    judgement of the output (KTO's `label`) stays beside it."""
    (output,) = needed(
        row, "output" if row.get("output") is not None else "response" if "response" in row else "output"
    )
    judged = {"label": row["label"]} if "label" in row and row["label"] in (None, True, False) else {}
    return {"messages": [*_asked(row, "instruction"), *messages(("assistant", output))["messages"]], **judged}


def _asked(row: Row, column: str) -> list[Any]:
    """Return what is said before an answer: `system`, the turns of `history`, and a question with its input."""
    (question,) = needed(row, column)
    given = _text(row.get("input"), "input") or _text(row.get("context"), "context")
    start = messages(("system", _text(row.get("system"), "system") or None))["messages"]
    end = messages(("user", f"{question}\n\n{given}".strip()))["messages"]
    return [*start, *_before(row.get("history")), *end]


def compared(row: Row, settings: Any, subset: str | None) -> Made:
    """Two answers, and what they answer in columns of its own: turns, or a question with its input."""
    answers = {name: _answer(row, name) for name in ("chosen", "rejected")}
    if all(_role(one[0]) not in ("assistant", "gpt") for one in answers.values()):
        return dict(answers)  # they begin with it
    turns = next((row[name] for name in ("messages", "conversations") if row.get(name)), None)
    if turns is not None:
        return {"prompt": _led(turns, row.get("system")), **answers}
    column = next((name for name in QUESTIONS if row.get(name) is not None), QUESTIONS[0])
    return {"prompt": _asked(row, column), **answers}


def _answer(row: Row, name: str) -> list[Any]:
    """Return an answer as turns: turns, one turn, or the text of one."""
    held = row.get(name)
    if isinstance(held, list) and held and all(isinstance(one, Mapping) for one in held):
        return held
    return [held] if isinstance(held, Mapping) else messages(("assistant", needed(row, name)[0]))["messages"]


def _role(turn: Row) -> Any:
    return turn.get("role") or turn.get("from")


def led(row: Row, settings: Any, subset: str | None) -> Made:
    """A conversation, or a prompt, and what `system` says before it; a prompt that is a text is then what the user
    says."""
    rest = {name: value for name, value in row.items() if name != "system"}
    turns = next((name for name in ("messages", "conversations") if rest.get(name)), None)
    if turns is not None and "prompt" not in rest:
        return {**rest, turns: _led(rest[turns], row.get("system"))}
    prompt = rest.get("prompt")
    asked = messages(("user", prompt))["messages"] if isinstance(prompt, str) else prompt
    return {**rest, "prompt": _led(asked, row.get("system"))}


def _led(turns: Any, system: Any) -> Any:
    """Return turns with a system's before them, unless they have one or it says nothing; what are no turns stays."""
    said = _text(system, "system")
    if not said or not isinstance(turns, list) or not all(isinstance(one, Mapping) for one in turns):
        return turns
    if turns and _role(turns[0]) == "system":
        return turns
    keys = ("from", "value") if turns and "from" in turns[0] else ("role", "content")
    return [dict(zip(keys, ("system", said), strict=True)), *turns]


def _before(history: Any) -> list[Any]:
    """Return the turns of `history`: messages, or pairs of what was asked and what was answered."""
    turns = history or []
    if isinstance(turns, list) and all(isinstance(one, Mapping) for one in turns):
        return turns
    if isinstance(turns, list) and all(isinstance(one, list) and len(one) == 2 for one in turns):
        pairs = [needed(dict(zip(("question", "answer"), one, strict=True)), "question", "answer") for one in turns]
        return [turn for pair in pairs for turn in messages(("user", pair[0]), ("assistant", pair[1]))["messages"]]
    raise DataError(f"'history' is {history!r:.60}; pairs of a question and its answer, or messages, are expected")


def question_and_answer(question: str, answer: str) -> Shape:
    """Return the shape of two columns."""

    def shape(row: Row, settings: Any, subset: str | None) -> Made:
        asked, said = needed(row, question, answer)
        return messages(("user", asked), ("assistant", said))

    return shape


def prompt_and_response(row: Row, settings: Any, subset: str | None) -> Made:
    """The two columns that `dataset_kwargs` names."""
    return question_and_answer(settings.prompt_column, settings.response_column)(row, settings, subset)


def chat_column(row: Row, settings: Any, subset: str | None) -> Made:
    """Messages in the column that `dataset_kwargs` names, without the last answer where that is asked for."""
    turns = _turns(row, settings.messages_column)
    if settings.exclude_final_assistant_message and turns and turns[-1].get("role") == "assistant":
        turns = turns[:-1]
    return {"messages": turns}


def conversation(row: Row, settings: Any, subset: str | None) -> Made:
    """Messages in `conversation`, themselves or below `messages`."""
    held = row.get("conversation")
    return {"messages": _turns(held, "messages") if isinstance(held, Mapping) else _turns(row, "conversation")}


def dolly(row: Row, settings: Any, subset: str | None) -> Made:
    """Argilla's curated Dolly: fields that hold a `value`, new or original."""
    start = "new" if settings.use_new_fields else "original"
    found = {name: _value(row, f"{start}-{name}") for name in ("instruction", "context", "response")}
    instruction, response = needed(found, "instruction", "response")
    asked = f"{instruction}\n\nContext: {found['context']}" if found["context"] else instruction
    return messages(("user", asked), ("assistant", response))


def chatqa(row: Row, settings: Any, subset: str | None) -> Made:
    """NVIDIA's ChatQA: what kind of answer is asked for, a document, the question or more turns, and the answer."""
    subset = subset or "sft"
    if subset not in _CHATQA:
        raise DataError(f"ChatQA has no subset '{subset}'; known: {', '.join(_CHATQA)}")
    document = row.get("document")
    start = messages(
        ("system", _CHATQA[subset]),
        ("system", None if document is None else _CHATQA_DOCUMENT),
        ("user", None if document is None else f"<context>{document}</context>"),
    )
    answer = row.get("answers")
    while isinstance(answer, Sequence) and not isinstance(answer, str) and answer:
        answer = answer[0]
    answer = answer.get("text") if isinstance(answer, Mapping) else answer
    if not isinstance(answer, str):
        raise DataError(f"no answer in 'answers': {row.get('answers')!r}")
    return {"messages": [*start["messages"], *_turns(row, "messages"), {"role": "assistant", "content": answer}]}


def dialogues(row: Row, settings: Any, subset: str | None) -> Made:
    """Anthropic's HH: two dialogues as texts, in which turns begin with `Human:` and `Assistant:`."""
    chosen, rejected = (_dialogue(text) for text in needed(row, "chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        raise DataError("'chosen' and 'rejected' begin with no turn alike")
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _turns(row: Row, column: str) -> list[Any]:
    turns = row.get(column)
    if turns is None:
        raise DataError(f"no messages in '{column}'; it has {', '.join(row)}")
    return list(turns)


def _value(row: Row, name: str) -> str | None:
    """Return a field that is a text, or one of Argilla's, whose text is the first `value`."""
    held = row.get(name)
    if isinstance(held, Mapping):
        held = held.get("value")
    if isinstance(held, Sequence) and not isinstance(held, str):
        held = held[0] if held else None
    return held


def _dialogue(text: str) -> list[dict[str, str]]:
    """Return the turns of a text in which each begins with its speaker after an empty line."""
    turns: list[dict[str, str]] = []
    for piece in f"\n\n{text.strip()}".split("\n\n"):
        speaker, colon, said = piece.partition(":")
        if colon and speaker in _SPEAKERS:
            turns.append({"role": _SPEAKERS[speaker], "content": said.strip()})
        elif turns:
            turns[-1]["content"] += f"\n\n{piece}"
        elif piece:
            raise DataError(f"a dialogue begins with {piece[:40]!r}, where 'Human:' is expected")
    return turns
