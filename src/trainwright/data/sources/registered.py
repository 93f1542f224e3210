"""Datasets by the names that Oumi's files and the hub have for them: where their rows lie, what their columns mean, and
what `dataset_kwargs` may hold.

A new dataset is a line in `REGISTERED`. Nothing here imports anything heavy, so `check` knows all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trainwright.data.sources import shapes
from trainwright.data.sources.shapes import Made, Shape

WHY, REFUSED = "why", "refused"


def _unread(default: Any, why: str) -> Any:
    """Return a field that changes nothing."""
    return field(default=default, metadata={WHY: why})


def _refused(default: Any, why: str) -> Any:
    """Return a field of which only the default is done."""
    return field(default=default, metadata={WHY: why, REFUSED: True})


_TOKENS = "rows become tokens here, whatever this says"


@dataclass
class Settings:
    """`dataset_kwargs` of every registered dataset."""

    return_tensors: bool | str = _unread(False, _TOKENS)


@dataclass
class ChatSettings(Settings):
    """`dataset_kwargs` of conversations.

    Attributes:
        assistant_only: learn the assistant's turns alone, as `training.trainer_kwargs.assistant_only_loss`.
    """

    assistant_only: bool = False
    task: str = _unread("auto", "what is learned follows from the rows")
    text_col: str = _unread("text", "conversations have no column of text")
    response_template: str | None = _unread(None, "the assistant's turns are found in any chat template")
    instruction_template: str | None = _unread(None, "the assistant's turns are found in any chat template")
    return_conversations: bool = _unread(False, _TOKENS)
    return_conversations_format: str = _unread("json", _TOKENS)


@dataclass
class AlpacaSettings(ChatSettings):
    """`dataset_kwargs` of Alpaca and its kin."""

    include_system_prompt: bool = True


@dataclass
class DollySettings(ChatSettings):
    """`dataset_kwargs` of Argilla's Dolly."""

    use_new_fields: bool = True


@dataclass
class PromptResponseSettings(ChatSettings):
    """`dataset_kwargs` of PromptResponseDataset: a dataset of the hub, and its two columns."""

    hf_dataset_path: str = "O1-OPEN/OpenO1-SFT"
    prompt_column: str = "instruction"
    response_column: str = "output"


@dataclass
class HuggingFaceSettings(ChatSettings):
    """`dataset_kwargs` of HuggingFaceDataset: a dataset of the hub, and its column of messages."""

    hf_dataset_path: str = ""
    messages_column: str = "messages"
    exclude_final_assistant_message: bool = False


@dataclass
class FileSettings(ChatSettings):
    """`dataset_kwargs` of text_sft_jsonl."""

    format: str | None = _unread(None, "the columns say what rows are")


@dataclass
class SizedSettings(ChatSettings):
    """`dataset_kwargs` of rows that are made."""

    dataset_size: int = 5


@dataclass
class TextSettings(Settings):
    """`dataset_kwargs` of texts for pre-training.

    Attributes:
        seq_length: tokens of a row: texts are one stream of tokens with an end token after each, cut into rows.
        dataset_text_field: the column of the texts; None for the dataset's usual one.
    """

    seq_length: int | None = None
    dataset_text_field: str | None = None
    append_concat_token: bool = _refused(True, "an end token stands between texts")
    add_special_tokens: bool = _refused(True, "texts are tokenised with the tokenizer's own marks")
    skip_last: bool = _unread(True, "the last row may be shorter")


@dataclass
class SizedTextSettings(TextSettings):
    """`dataset_kwargs` of texts that are made."""

    dataset_size: int = 1000


IMAGES = (
    "vl_sft", "hf_vision", "vision_language_jsonl", "vision_dpo_jsonl", "coco_captions", "mnist_sft",
    "HuggingFaceH4/llava-instruct-mix-vsft", "HuggingFaceM4/Docmatix", "HuggingFaceM4/the_cauldron",
    "allenai/pixmo-ask-model-anything", "allenai/pixmo-cap", "allenai/pixmo-cap-qa", "hiyouga/geometry3k",
    "lmms-lab/multimodal-open-r1-8k-verified", "merve/vqav2-small", "nlphuji/flickr30k", "openbmb/RLAIF-V-Dataset",
)  # fmt: skip
"""Datasets of images that Oumi's files name."""


@dataclass(frozen=True)
class Registered:
    """A dataset that has a name.

    Attributes:
        settings: what `dataset_kwargs` may hold.
        shape: what a row becomes; None leaves rows as they are.
        text: the column of its texts.
        make: its rows, where they are made and not read.
        subset: that is read where the file names none.
        files: of subsets that are single files on the hub.
        lies_here: whether `dataset_path` must say where it lies.
    """

    settings: type[Settings] = ChatSettings
    shape: Shape | None = None
    text: str = "text"
    make: Callable[[Any], list[Made]] | None = None
    subset: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    lies_here: bool = False


def _made(row: Callable[[int], Made]) -> Callable[[Any], list[Made]]:
    return lambda settings: [row(number) for number in range(settings.dataset_size)]


_CHATS, _TEXTS, _PAIRS = Registered(), Registered(TextSettings), Registered(Settings)
_ALPACA = Registered(AlpacaSettings, shapes.alpaca)
_ROWS_FILE = Registered(FileSettings, lies_here=True)

REGISTERED = {
    "yahma/alpaca-cleaned": _ALPACA,
    "tatsu-lab/alpaca": _ALPACA,
    "uiuc-convai/CoALM-IT": _ALPACA,
    "CohereForAI/aya_dataset": Registered(shape=shapes.question_and_answer("inputs", "targets")),
    "databricks/databricks-dolly-15k": Registered(shape=shapes.instructed),
    "argilla/databricks-dolly-15k-curated-en": Registered(DollySettings, shapes.dolly),
    "argilla/magpie-ultra-v0.1": Registered(shape=shapes.question_and_answer("instruction", "response")),
    "O1-OPEN/OpenO1-SFT": Registered(shape=shapes.question_and_answer("instruction", "output")),
    "Magpie-Align/*": _CHATS,
    "teknium/OpenHermes*": _CHATS,
    "HuggingFaceH4/ultrachat_200k": _CHATS,
    "allenai/tulu-*": _CHATS,
    "allenai/WildChat*": Registered(shape=shapes.conversation),
    "nvidia/ChatQA-Training-Data": Registered(
        shape=shapes.chatqa,
        subset="sft",
        files={"tatqa-arithmetic": "tatqa/train_arithmetic.json", "tatqa-others": "tatqa/train_others.json"},
    ),
    "PromptResponseDataset": Registered(PromptResponseSettings, shapes.prompt_and_response),
    "HuggingFaceDataset": Registered(HuggingFaceSettings, shapes.chat_column),
    "text_sft": _ROWS_FILE,
    "text_sft_jsonl": _ROWS_FILE,
    "TextSftJsonLinesDataset": _ROWS_FILE,
    "debug_sft": Registered(
        SizedSettings,
        make=_made(lambda n: shapes.messages(("user", f"What is {n}?"), ("assistant", f"A number: {n}."))),
    ),
    # preferences
    "mlabonne/orpo-dpo-mix-40k": _PAIRS,
    "*/ultrafeedback*": _PAIRS,
    "*/hh-rlhf": Registered(Settings, shapes.dialogues),
    "text_dpo_jsonl": Registered(Settings, lies_here=True),
    "preference_jsonl": Registered(Settings, lies_here=True),
    "debug_dpo": Registered(
        SizedSettings,
        make=_made(lambda n: {"prompt": f"What is {n}?", "chosen": f" A number: {n}.", "rejected": " No."}),
    ),
    # texts
    "allenai/c4": _TEXTS,
    "allenai/dolma": _TEXTS,
    "mlfoundations/dclm-baseline*": _TEXTS,
    "HuggingFaceFW/fineweb*": _TEXTS,
    "EleutherAI/pile": _TEXTS,
    "*/SlimPajama*": _TEXTS,
    "roneneldan/TinyStories": _TEXTS,
    "nampdn-ai/tiny-textbooks": _TEXTS,
    "wikimedia/wikipedia": _TEXTS,
    "Salesforce/wikitext": _TEXTS,
    "PleIAs/YouTube-Commons": _TEXTS,
    "togethercomputer/RedPajama-Data-1T": _TEXTS,
    "togethercomputer/RedPajama-Data-V2": Registered(TextSettings, text="raw_content"),
    "tiiuae/falcon-refinedweb": Registered(TextSettings, text="content"),
    "bigcode/the-stack*": Registered(TextSettings, text="content"),
    "bigcode/starcoderdata": Registered(TextSettings, text="content"),
    "debug_pretraining": Registered(SizedTextSettings, make=_made(lambda n: {"text": f"This is text {n} of many."})),
}
"""By name, in capitals or not; `*` stands for anything."""

COLUMNS = (
    "instruction", "input", "output", "response", "context", "system", "inputs", "targets", "conversation", "history",
    "question", "query",
)  # fmt: skip
"""Columns that shapes read, besides those that are learned from as they are."""


def find(name: str | None, path: str | None) -> Registered | None:
    """Return what is known of a dataset by its name; None of a file or folder of one's own.

    A folder here that is called as a dataset is, without `./`, is that dataset; a pattern does not match what is here.

    Args:
        name: `dataset_name`.
        path: `dataset_path`.
    """
    if name is None or name.startswith((".", "/", "~")):
        return None
    asked = name.casefold()
    known = {one.casefold(): entry for one, entry in REGISTERED.items()}
    if asked in known or (path is None and Path(name).exists()):
        return known.get(asked)
    return next((one for pattern, one in known.items() if fnmatchcase(asked, pattern)), None)


def shape_of(columns: list[str], known: set[str]) -> Shape | None:
    """Return the shape of a dataset of one's own by its columns: Alpaca's and Dolly's, Oumi's and WildChat's
    `conversation`, preferences whose question has a column of its own, and whatever has a `system` beside it; None
    where they say themselves what they are.

    Args:
        columns: of the rows.
        known: columns that rows are learned from as they are.
    """
    has = set(columns)
    if "input_ids" in has:
        return None
    if {"chosen", "rejected"} <= has and "prompt" not in has and has & {*shapes.QUESTIONS, "messages", "conversations"}:
        return shapes.compared
    if "system" in has and has & {"messages", "conversations", "prompt"}:
        return shapes.led
    if has & known:
        return None
    if "instruction" in has and has & {"output", "response"}:
        return shapes.instructed
    return shapes.conversation if "conversation" in has else None


def unread(entry: Registered, given: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield (name, why, whether it is refused) of settings that are given and not used."""
    for one in fields(entry.settings):
        if WHY in one.metadata and given.get(one.name, one.default) != one.default:
            yield one.name, one.metadata[WHY], bool(one.metadata.get(REFUSED))
