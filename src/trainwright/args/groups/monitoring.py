"""Arguments of what is seen of a run: logs, trackers, evaluation and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from trainwright.args.groups.option import list_option, option


@dataclass
class Logging:
    """What is written down, and when."""

    logging_strategy: str = option("steps", "When to log: no, steps, epoch.")
    logging_steps: float = option(500, "Steps between logs; below 1, a share of all steps.")
    logging_first_step: bool = option(False, "Log the first step too.")
    log_on_each_node: bool = option(True, "One process of every machine logs, not only the first machine's.")
    logging_nan_inf_filter: bool = option(True, "Without effect: steps without a finite loss are left out and counted.")
    include_num_input_tokens_seen: str | bool = option("no", "Count input tokens: no, all, non_padding.")
    log_level: str = option("passive", "Level of trainwright's logger on the main process.")
    log_level_replica: str = option("warning", "Level of trainwright's logger on the other processes.")
    disable_tqdm: bool | None = option(None, "No progress bar; plain lines instead.")


@dataclass
class Tracking:
    """Experiment trackers; none unless asked for."""

    report_to: None | str | list[str] = option("none", "Trackers to report to, by transformers' names.")
    run_name: str | None = option(None, "Name of the run in trackers.")
    project: str = option("huggingface", "Project of the run in trackers that have projects.")
    trackio_space_id: str | None = option(None, "Space of the tracker trackio.")
    trackio_bucket_id: str | None = option(None, "Bucket of the tracker trackio.")
    trackio_static_space_id: str | None = option(None, "Static space of trackio.")


@dataclass
class Evaluation:
    """When and how the model is evaluated."""

    eval_strategy: str = option("no", "When to evaluate: no, steps, epoch.")
    eval_steps: float | None = option(None, "Steps between evaluations; logging_steps when not given.")
    eval_delay: float = option(0, "Steps or epochs before the first evaluation.")
    eval_on_start: bool = option(False, "Evaluate before the first step.")
    per_device_eval_batch_size: int = option(8, "Rows of one evaluation batch on one device.")
    prediction_loss_only: bool = option(False, "Return the loss alone from evaluation and prediction.")
    eval_do_concat_batches: bool = option(True, "Join the predictions; otherwise a list of batches.")
    eval_use_gather_object: bool = option(False, "Without effect: predictions of any shape are gathered.")
    eval_accumulation_steps: int | None = option(
        None, "Without effect: predictions move to host memory batch by batch."
    )
    include_for_metrics: list[str] = list_option(list, "Also give compute_metrics: inputs, loss.")
    batch_eval_metrics: bool = option(False, "Call compute_metrics for every batch.")


@dataclass
class BestModel:
    """Which checkpoint is the best."""

    load_best_model_at_end: bool = option(False, "Load the best checkpoint when training ends.")
    metric_for_best_model: str | None = option(None, "Metric that decides; 'loss' when not given.")
    greater_is_better: bool | None = option(None, "Whether more is better; false for names ending in 'loss'.")
