"""`ModelPipeline`: the model of a task, from `cfg.model`."""

from __future__ import annotations

from typing import Any

from trainwright.config.sections import plain
from trainwright.tasks.algebra.models.models import check_model, new_model


class ModelPipeline:
    """Builds the model of a run."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self.config = plain(config, "cfg.model")
        self.tokenizer = tokenizer
        check_model(self.config, "cfg.model")

    @classmethod
    def from_io_dict(cls, config: Any, io_dict: dict[str, Any]) -> ModelPipeline:
        """Return the pipeline of a section `model`, for the vocabulary of `IOPipeline.build()`'s result."""
        return cls(config, io_dict["tokenizer"])

    def build(self) -> Any:
        """Return the model, with random weights."""
        return new_model(self.config, self.tokenizer)
