"""What `training.trainer_kwargs` may hold, by TRL's names: the settings of one kind of training, besides
TrainingArguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

SFT_LOSSES = ("nll", "dft")
PACKINGS = ("bfd", "bfd_split", "wrapped")
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip
DIVERGING = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
"""Losses of the scores that `f_divergence_type` makes of log-ratios; the others take these as they are."""
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass
class TextOptions:
    """How rows of text become rows of tokens.

    Attributes:
        SECTION: of `training`, which holds some of them too, as Oumi has it.
        TAKEN: names of some that stand in `training` itself, too.
        max_length: tokens of the longest row; longer ones are cut at their end, and counted. None for no limit.
        padding_free: documents one after another in one row instead of padding; None leaves it to the engine.
        pad_to_multiple_of: width of padded batches; 'auto' and None for no rounding.
        dataset_num_proc: processes that tokenise.
    """

    SECTION: ClassVar[str] = ""
    TAKEN: ClassVar[tuple[str, ...]] = ()

    max_length: int | None = 1024
    truncation_mode: str = "keep_start"
    padding_free: bool | None = None
    pad_to_multiple_of: int | str | None = None
    dataset_num_proc: int | None = None
    pad_token: str | None = None
    model_init_kwargs: dict[str, Any] | None = None
    trust_remote_code: bool = False
    router_aux_loss_coef: float | None = None
    activation_offloading: bool = False


@dataclass
class SFTOptions(TextOptions):
    """Supervised fine-tuning and pre-training.

    Attributes:
        packing: several documents in one row of max_length tokens; None is false.
        packing_strategy: bfd keeps documents whole and apart; bfd_split also cuts long ones; wrapped cuts anywhere.
        completion_only_loss: learn completions and not prompts; None where rows have both.
        assistant_only_loss: learn the assistant's turns alone.
    """

    packing: bool | None = None
    packing_strategy: str = "bfd"
    eval_packing: bool | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    dataset_text_field: str = "text"
    dataset_kwargs: dict[str, Any] | None = None
    chat_template_path: str | None = None
    eos_token: str | None = None
    shuffle_dataset: bool = False
    loss_type: str = "nll"


@dataclass
class DistillOptions(SFTOptions):
    """Distillation.

    Attributes:
        teacher_model_name_or_path: a folder or hub name.
        beta: 0 for KL(teacher, student), 1 for KL(student, teacher), else the generalised Jensen-Shannon divergence.
        temperature: that the logits of both are divided by, also where the student writes; None for the trainer's own.
        lmbda: how often the student writes what is learned; None for the trainer's own, which is never with ours.
        seq_kd: whether the teacher does otherwise.
        max_new_tokens: of what is written.
    """

    SECTION: ClassVar[str] = "gkd"

    teacher_model_name_or_path: str | None = None
    teacher_model_init_kwargs: dict[str, Any] | None = None
    beta: float = 0.5
    temperature: float | None = None
    lmbda: float | None = None
    seq_kd: bool = False
    max_new_tokens: int = 128
    disable_dropout: bool = True


@dataclass
class GOLDOptions(DistillOptions):
    """TRL's GOLD, whose teacher may have another tokenizer."""

    SECTION: ClassVar[str] = "gold"

    teacher_tokenizer_name_or_path: str | None = None
    top_p: float = 0.95
    top_k: int = 0
    max_completion_length: int = 128
    use_uld_loss: bool = False
    use_extended_uld: bool = True
    uld_use_hybrid_loss: bool = False
    uld_hybrid_matched_weight: float | None = None
    uld_hybrid_unmatched_weight: float | None = None
    uld_crossentropy_weight: float = 0.0
    uld_distillation_weight: float = 1.0
    uld_student_temperature: float = 1.0
    uld_teacher_temperature: float = 1.0
    uld_skip_student_eos: bool = True
    uld_skip_teacher_eos: bool = True
    use_vllm: bool = False
    vllm_mode: str = "server"
    vllm_server_host: str = "0.0.0.0"
    vllm_server_port: int = 8001
    vllm_server_timeout: float = 240.0
    vllm_gpu_memory_utilization: float = 0.9
    vllm_tensor_parallel_size: int = 1
    vllm_sync_frequency: int = 1
    vllm_enable_sleep_mode: bool = False


@dataclass
class DPOOptions(TextOptions):
    """Direct preference optimisation.

    Attributes:
        beta: how closely the reference is kept to.
        loss_type: one or several of the losses in `objectives/preference.py`.
        ref_model: a folder or hub name of the reference; the start weights when not given.
    """

    beta: float = 0.1
    loss_type: list[str] | str = field(default_factory=lambda: ["sigmoid"])
    loss_weights: list[float] | None = None
    label_smoothing: float = 0.0
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    ld_alpha: float | None = None
    use_weighting: bool = False
    discopop_tau: float = 0.05
    disable_dropout: bool = True
    precompute_ref_log_probs: bool = False
    precompute_ref_batch_size: int | None = None
    ref_model: str | None = None
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512

    @property
    def losses(self) -> list[str]:
        """The losses by name."""
        return [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)


KTO_LOSSES = ("kto", "apo_zero_unpaired")


@dataclass
class KTOOptions(TextOptions):
    """Kahneman-Tversky optimisation.

    Attributes:
        beta: how closely the reference is kept to.
        desirable_weight: of the losses of good completions.
        undesirable_weight: of those of bad ones.
        ref_model: a folder or hub name of the reference; the start weights when not given.
        trl_compatible: completions go to other prompts by the order of the data, and every micro-batch is measured by
            itself, as TRL has it.
    """

    beta: float = 0.1
    loss_type: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    disable_dropout: bool = True
    precompute_ref_log_probs: bool = False
    precompute_ref_batch_size: int | None = None
    ref_model: str | None = None
    sync_ref_model: bool = False
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    trl_compatible: bool = False


@dataclass
class RewardOptions(TextOptions):
    """A model that scores answers.

    Attributes:
        center_rewards_coefficient: of the square of the sum of both scores, which keeps them near 0; None for none.
        trl_compatible: the score is that of the last token that is no padding token, as TRL has it; where both tokens
            are one, that is the token before the end.
    """

    center_rewards_coefficient: float | None = None
    disable_dropout: bool = True
    chat_template_path: str | None = None
    eos_token: str | None = None
    trl_compatible: bool = False


CLASS_METRICS = ("accuracy", "f1", "exact_match")
TEXT_METRICS = ("exact_match", "f1")


@dataclass
class ClassifyOptions(TextOptions):
    """Classification.

    Attributes:
        class_names: the classes in the order of their numbers; those of the data when not given.
        class_weights: what each weighs in the loss, in that order.
        metrics: of an evaluation.
    """

    class_names: list[str] | None = None
    class_weights: list[float] | None = None
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])


@dataclass
class Seq2SeqOptions(TextOptions):
    """Sequence-to-sequence training.

    Attributes:
        source_prefix: what every prompt begins with, such as T5's "translate English to German: ".
        max_target_length: tokens of the longest completion, and of what is generated; None for no limit.
        num_beams: of generation.
        metrics: of what is generated in an evaluation; none generates nothing.
    """

    source_prefix: str | None = None
    max_target_length: int | None = 128
    num_beams: int = 1
    metrics: list[str] = field(default_factory=list)


# Names of TRL's and Oumi's past under trainer_kwargs, by today's; None where the thing is no longer needed.
RENAMED: dict[str, str | None] = {
    "max_seq_length": "max_length",
    "max_prompt_length": None,
    "max_completion_length": None,
    "dataset_batch_size": None,
    "num_of_sequences": None,
    "chars_per_token": None,
    "truncation": None,
    "label_pad_token_id": None,
    "padding_value": None,
    "generate_during_eval": None,
    "is_encoder_decoder": None,
    "neftune_noise_alpha_": "neftune_noise_alpha",
    "ref_model_init_kwargs": None,
    "use_liger": "use_liger_kernel",
    "use_liger_loss": "use_liger_kernel",
}
