"""The classes that a saved classifier was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from trainwright.config.schema import ModelParams
from trainwright.models.saved_config import saved_config

logger = logging.getLogger(__name__)
_UNNAMED = "LABEL_"  # which transformers calls classes that have no names


def classes_of(params: ModelParams) -> list[str] | None:
    """Return the names of the classes of a saved classifier; None of a model that is none, or does not name them."""
    config = saved_config(params) if params.load_pretrained_weights else None
    if config is None or not any("Classification" in name for name in config.architectures or ()):
        return None
    names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    return None if all(name.startswith(_UNNAMED) for name in names) else names


def has_another_head(params: ModelParams, count: int) -> bool:
    """Whether a saved model is a classifier of another number of classes."""
    config = saved_config(params) if params.load_pretrained_weights else None
    if config is None or not any("Classification" in name for name in config.architectures or ()):
        return False
    return bool(config.num_labels != count)


def as_in_the_model(params: ModelParams, names: Sequence[str]) -> list[str]:
    """Return the names of classes in the order of the classifier that goes on with them, in capitals or not; as they
    are where it has others, which is said."""
    trained = classes_of(params)
    if trained is None:
        return list(names)
    known = {name.casefold(): name for name in names}
    if sorted(known) == sorted(name.casefold() for name in trained):
        return [known[name.casefold()] for name in trained]
    if len(trained) == len(names):
        logger.warning(
            "'%s' was trained on the classes %s; its head goes on with %s in their places. Another order is given by "
            "training.trainer_kwargs.class_names.",
            params.model_name, ", ".join(trained), ", ".join(names),
        )  # fmt: skip
    return list(names)
