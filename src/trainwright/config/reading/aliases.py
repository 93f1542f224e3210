"""One thing under two names: names of the past become today's, arguments under `trainer_kwargs` move to `training`, and
what is given twice is an error with both lines."""

from __future__ import annotations

from dataclasses import fields

from trainwright.args import aliases
from trainwright.config import methods
from trainwright.config.options import RENAMED
from trainwright.config.params import ARGUMENTS, TrainingParams
from trainwright.config.reading.tree import Diagnostics, Tree, get, place_of, tree_of

# Two names of one thing under `training`.
ALIASES = (
    ("optimizer", "optim"),
    ("mixed_precision_dtype", "bf16"),
    ("mixed_precision_dtype", "fp16"),
    ("compile", "torch_compile"),
    ("enable_gradient_checkpointing", "gradient_checkpointing"),
    ("enable_gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing", "activation_checkpointing"),
    ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ("empty_device_cache_steps", "torch_empty_cache_steps"),
    ("save_epoch", "save_strategy"),
    ("enable_wandb", "report_to"),
    ("enable_mlflow", "report_to"),
    ("enable_tensorboard", "report_to"),
    ("nccl_default_timeout_minutes", "ddp_timeout"),
    ("use_deterministic", "full_determinism"),
    ("include_performance_metrics", "include_num_input_tokens_seen"),
)
# Two names in different sections, which may both be given where they say the same.
ELSEWHERE = (
    ("model.chat_template", "training.trainer_kwargs.chat_template_path"),
    ("model.tokenizer_pad_token", "training.trainer_kwargs.pad_token"),
    ("data.train.pack", "training.trainer_kwargs.packing"),
    ("data.train.target_col", "training.trainer_kwargs.dataset_text_field"),
    ("data.train.train_target", "training.trainer_kwargs.assistant_only_loss"),
)


def modernize(tree: Tree, problems: Diagnostics) -> None:
    """Bring a file to one name for each thing; note where a thing has two that are given."""
    training = get(tree, "training")
    if training is None or not isinstance(training.value, dict):
        return
    kwargs = get(tree, "training.trainer_kwargs")
    inner = kwargs.value if kwargs is not None and isinstance(kwargs.value, dict) else {}
    params = {f.name for f in fields(TrainingParams)}
    old = {name: new or None for name, new in aliases.RENAMED.items() if name not in params}
    for section, path in ((inner, "training.trainer_kwargs"), (training.value, "training")):
        _rename(tree, section, path, {**old, **_past(tree)} if section is inner else old, problems)
        _replace(tree, section, path, [name for name in aliases.REPLACED if name not in params], problems)
    names = {name: f"training.trainer_kwargs.{name}" for name in inner if name in ARGUMENTS}
    both = [(f"training.{name}", path) for name, path in names.items() if name in training.value]
    names |= {name: f"training.{name}" for name in training.value}
    both += [(names[one], names[other]) for one, other in ALIASES if one in names and other in names]
    for pair in both:
        values = [one.value for path in pair if (one := get(tree, path)) is not None]
        if None not in values and not all(value in (False, "no") for value in values):  # else one at most is given
            twice(problems, tree, *pair)
    for name in [name for name in inner if name in ARGUMENTS]:
        training.value.setdefault(name, inner.pop(name))


def _past(tree: Tree) -> dict[str, str | None]:
    """Return names of the past under `trainer_kwargs`, without those that a method has today."""
    named = get(tree, "training.trainer_type")
    able = methods.candidates(str(named.value).upper()) if named is not None else ()
    known = {one.name for method in able for one in fields(method.options)}
    return {name: new for name, new in RENAMED.items() if name not in known}


def given_elsewhere(tree: Tree, problems: Diagnostics) -> None:
    """Note where two sections say one thing differently."""
    for one, other in ELSEWHERE:
        first, second = (node.value if (node := get(tree, name)) else None for name in (one, other))
        if first is not None and second is not None and first != second:
            twice(problems, tree, one, other)


def _rename(
    tree: Tree, section: dict[str, Tree], path: str, renamed: dict[str, str | None], problems: Diagnostics
) -> None:
    for old in [name for name in section if name in renamed]:
        new, place = renamed[old], section[old].key or section[old].place
        if new is not None and new in section:
            twice(problems, tree, f"{path}.{old}", f"{path}.{new}")
        what = f"use {path}.{new}" if new else "it is no longer needed, and has no effect"
        problems.warn(place, f"{path}.{old} is an old name; {what}.")
        value = section.pop(old)
        if new is not None:
            section.setdefault(new, value)


def _replace(tree: Tree, section: dict[str, Tree], path: str, names: list[str], problems: Diagnostics) -> None:
    """Put what names of the past stand for in their place, with a value of its own."""
    for old in [name for name in names if name in section]:
        advice, convert = aliases.REPLACED[old]
        node = section[old]
        problems.warn(node.key or node.place, f"{path}.{old} is an old name; use {advice}.")
        for name, value in convert(node.value).items():
            if name in section:
                twice(problems, tree, f"{path}.{old}", f"{path}.{name}")
            made = tree_of(value)
            section.setdefault(name, Tree(made.value, node.place, node.key))
        del section[old]


def twice(problems: Diagnostics, tree: Tree, one: str, other: str) -> None:
    """Note that a thing is given under two names, with the lines of both."""
    first, second = place_of(tree, one), place_of(tree, other)
    at = f" (line {first.line})" if first.line else f" ({first.source})" if first.source else ""
    both = f"{one}{at} and {other} are two names of one thing"
    problems.add(second, both, "give only one", len(other.split(".")[-1]))
