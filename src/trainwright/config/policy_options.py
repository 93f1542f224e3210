"""What `training.trainer_kwargs` may hold for GRPO and RLOO, by TRL's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from trainwright.config.options import TextOptions

POLICY_LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "vespo", "luspo")
CLIPPED = ("grpo", "dr_grpo", "dapo", "bnpo", "luspo")
"""Losses of ratios that are clipped on both sides."""
SCALES = ("group", "batch", "none")
LEVELS = ("token", "sequence")
KL_ESTIMATORS = ("k1", "k2", "k3")
CORRECTIONS = ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate")


@dataclass
class PolicyOptions(TextOptions):
    """What GRPO and RLOO have in common.

    Attributes:
        num_generations: completions of every prompt, a group; per_device_train_batch_size counts completions.
        num_generations_eval: completions of every prompt that is held out; `num_generations` where not given, or one
            where all would be the same.
        max_completion_length: tokens of the longest completion.
        temperature_eval: of completions of prompts that are held out; 0 always takes the likeliest token, `temperature`
            where not given.
        generation_batch_size: completions of a generation, over all ranks; or give `steps_per_generation`.
        steps_per_generation: micro-batches of a generation; gradient_accumulation_steps where neither is given.
        num_iterations: how often a generation is trained on.
        reward_functions: names of verifiers that ship, or functions as `module:name` or `file.py:name`.
        reward_function_kwargs: keywords of each, by its name.
        reward_weights: what each counts; 1 where not given.
        reward_timeout: seconds after which a function has no reward for a row.
        reward_processes: processes in which functions run; 0 for this one, where nothing can be ended that hangs.
        beta: how closely the reference is kept to.
        epsilon: how far a ratio may fall below 1.
        epsilon_high: how far it may rise above 1; None for `epsilon`.
        mask_truncated_completions: leave completions without an end out of the loss; their rewards count in the group.
        ref_model: a folder or hub name of the reference; the start weights when not given.
        shuffle_dataset: whether every pass has an order of its own.
    """

    num_generations: int = 8
    num_generations_eval: int | None = None
    max_completion_length: int = 512
    temperature: float = 1.0
    temperature_eval: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: list[str] = field(default_factory=list)
    generation_batch_size: int | None = None
    steps_per_generation: int | None = None
    num_iterations: int = 1
    reward_functions: list[str] | str = field(default_factory=list)
    reward_function_kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)
    reward_weights: list[float] | None = None
    reward_timeout: float = 10.0
    reward_processes: int = 1
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    mask_truncated_completions: bool = False
    disable_dropout: bool = True
    ref_model: str | None = None
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    shuffle_dataset: bool = True
    max_length: int | None = None

    precompute_ref_log_probs: ClassVar[bool] = False  # of completions that are not there yet

    @property
    def functions(self) -> list[str]:
        """The rewards by name."""
        return [self.reward_functions] if isinstance(self.reward_functions, str) else list(self.reward_functions)

    @property
    def upper(self) -> float:
        """How far a ratio may rise above 1."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


@dataclass
class GRPOOptions(PolicyOptions):
    """Group-relative policy optimisation.

    Attributes:
        loss_type: one of `POLICY_LOSSES`.
        importance_sampling_level: whether ratios are of tokens, or one of the whole completion (GSPO).
        delta: bound of the ratio that is not clipped; None for none.
        cispo_high: bound of CISPO's weights, where `epsilon_high` is not given.
        scale_rewards: by whose standard deviation advantages are divided: the group's, the whole generation's, none.
        kl_estimator: of the distance to the reference (k3 is TRL's).
        use_bias_correction_kl: whether that is weighed by the ratio.
        off_policy_mask_threshold: completions of negative advantage are left out that have become so much less likely.
        top_entropy_quantile: the share of tokens, those of the highest entropy, that the policy is trained on.
        entropy_coef: what the mean entropy counts that is taken off the loss.
        sampler_correction: how the policy's loss is corrected for what the sampler's log-probabilities differ from
            those of training, one of `CORRECTIONS`; None for not at all.
        sampler_correction_max, sampler_correction_min: bounds of that.
    """

    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    delta: float | None = None
    cispo_high: float = 5.0
    scale_rewards: str = "group"
    kl_estimator: str = "k3"
    use_bias_correction_kl: bool = True
    off_policy_mask_threshold: float | None = None
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0
    sampler_correction: str | None = None
    sampler_correction_max: float | None = 3.0
    sampler_correction_min: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0


@dataclass
class TrlGRPOOptions(GRPOOptions):
    """TRL's GRPO, and how it generates with vLLM."""

    SECTION: ClassVar[str] = "grpo"
    TAKEN: ClassVar[tuple[str, ...]] = ("reward_functions", "reward_function_kwargs")

    use_vllm: bool = False
    vllm_mode: str | None = None
    vllm_gpu_memory_utilization: float | None = None
    log_completions: bool = False
    cache_implementation: str | None = None
    generation_kwargs: dict[str, Any] | None = None


@dataclass
class RLOOOptions(PolicyOptions):
    """REINFORCE with the mean of the others as a baseline.

    Attributes:
        reward_clip_range: rewards are kept within it.
        normalize_advantages: whether advantages of a generation have mean 0 and standard deviation 1.
    """

    num_generations: int = 2
    beta: float = 0.05
    reward_clip_range: list[float] | None = None
    normalize_advantages: bool = False
