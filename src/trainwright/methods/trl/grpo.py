"""TRL's GRPOTrainer on the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.methods import Fault
from trainwright.config.options import TextOptions
from trainwright.config.policy_options import GRPOOptions, TrlGRPOOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.methods.grpo import GRPO, completion_faults, reward_faults
from trainwright.tasks.language.method import LanguageMethod

if TYPE_CHECKING:
    from trainwright.rewards.functions import Reward

_OURS = (
    "reward_timeout", "reward_processes", "temperature_eval", "stop", "kl_estimator", "cispo_high",
    "sampler_correction", "sampler_correction_max", "sampler_correction_min", "ref_model", "padding_free",
)  # fmt: skip
_NOT_TRLS = ("max_length", "dataset_num_proc", "reward_functions", "reward_function_kwargs")


class TrlGRPO(GRPO):
    """`trl.GRPOTrainer`; rewards are called in its process, and without an end to how long they take."""

    library, package, reads_our_rows = "TRL", ("trl", "trl"), False
    options = TrlGRPOOptions
    lines = (
        *LanguageMethod.lines,
        refused(KWARGS, " ".join(_OURS), "TRL has no such setting", "leave it out, or use GRPO"),
        refused(KWARGS, "max_length", "prompts are never cut", "leave it out"),
        refused(KWARGS, "dataset_num_proc", "nothing is tokenised before", "leave it out"),
        refused("training", "train_sampling_strategy", "TRL's sampler draws prompts in a way of its own",
                "leave it out", fine=("random",)),
    )  # fmt: skip
    takes = ("training.grpo", "training.reward_functions", "training.reward_function_kwargs")

    @property
    def minimises(self) -> type[TextOptions]:
        """The settings that say what it minimises."""
        return GRPOOptions

    def faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with rewards and completions; the rest TRL says itself."""
        yield from completion_faults(options)
        yield from reward_faults(options)
        yield from text_faults(options)

    def check_data(self, config: TrainingConfig, options: Any, formats: Sequence[Format]) -> None:
        """Leave it to TRL how completions make groups."""

    def not_the_same(self, config: TrainingConfig) -> Iterator[str]:
        """Yield that it draws other completions."""
        yield f"{self.name} draws prompts and completions by random numbers of its own"

    def upstream(self, config: TrainingConfig) -> Any:
        """Return `trl.GRPOTrainer`."""
        from trainwright.config.reading.read import options_of
        from trainwright.rewards.functions import of_names
        from trainwright.upstream.build import Wanted, build_trl

        options = self.options(**options_of(config, self.options))
        rewards = [as_trls(one) for one in of_names(options.functions, options.reward_function_kwargs)]
        arguments = {"remove_unused_columns": False, "disable_dropout": options.disable_dropout}

        def further(model: Any, again: Callable[[], Any]) -> dict[str, Any]:
            return {"reward_funcs": rewards}

        return build_trl(config, self, Wanted("GRPO", further, arguments, without=_NOT_TRLS))


def as_trls(reward: Reward) -> Callable[..., list[float | None]]:
    """Return a reward of ours, which may be called row by row, as TRL calls its own."""
    from trainwright.rewards.functions import call

    def judge(prompts: list[Any], completions: list[Any], **given: Any) -> list[float | None]:
        count = len(completions)
        columns: Mapping[str, list[Any]] = {
            name: values for name, values in given.items() if isinstance(values, list) and len(values) == count
        }
        answer = call(reward, {**columns, "prompts": prompts, "completions": completions})
        if answer.wrong:
            raise ValueError(f"The reward '{reward.name}' failed: {next(iter(answer.wrong.values()))}.")
        return answer.values

    judge.__name__ = reward.name
    return judge
