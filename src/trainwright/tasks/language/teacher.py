"""The teacher of a distillation: a model of a folder or of the hub, with the student's tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.losses import fused_loss
from trainwright.models.load import beside, load_model
from trainwright.session.session import Session
from trainwright.tasks.language.method import Text

_NAME = "training.trainer_kwargs.teacher_model_name_or_path"


def add_teacher(session: Session, config: TrainingConfig, text: Text) -> None:
    """Give the objective its teacher.

    Raises:
        ConfigError: it cannot be loaded, or predicts other tokens than the student.
    """
    name = text.options.teacher_model_name_or_path
    teacher: Any = load_model(replace(beside(config.model, name), model_kwargs={}), text.tokenizer, key=_NAME)
    mine, theirs = (one.config.get_text_config().vocab_size for one in (session.model, teacher))
    if mine != theirs:
        raise ConfigError(
            f"{_NAME} '{name}' predicts {theirs} tokens, and the student {mine}; distillation compares the predictions "
            "of one vocabulary. Give a teacher of the same, or use TRL_GOLD."
        )
    _check_tokens(name, text.tokenizer, config.model.trust_remote_code)
    teacher = teacher.requires_grad_(False).eval()
    teacher.config.use_cache = False
    objective: Any = session.objective
    objective.reference = teacher.to(session.strategy.device)
    objective.fused_reference = fused_loss.of_frozen(session, teacher)


def _check_tokens(name: str, tokenizer: Any, trust_remote_code: bool) -> None:
    """See whether the teacher's own tokenizer, where it has one, has the student's tokens.

    Raises:
        ConfigError: it has others.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code).get_vocab()
    except (OSError, ValueError, KeyError):
        return  # it has none
    mine = tokenizer.get_vocab()
    other = next((token for token, number in theirs.items() if mine.get(token, number) != number), None)
    if other is not None:
        raise ConfigError(
            f"{_NAME} '{name}' has another vocabulary: its token {theirs[other]} is {other!r}, which the student "
            f"knows as {mine[other]}. Give a teacher with the student's tokens, or use TRL_GOLD."
        )
