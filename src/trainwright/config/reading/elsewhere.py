"""What other programs' files call the keys of ours: Axolotl's, LLaMA-Factory's, and those of TRL's commands."""

from __future__ import annotations

_DATASET = "data.train.datasets[].dataset_name"
_PART = "a dataset of data.validation with split: 'train[95%:]', and 'train[:95%]' for data.train"
_LENGTH = "training.trainer_kwargs.max_length"

NAMES = {
    **dict.fromkeys(("base_model", "model_name_or_path"), "model.model_name"),
    **dict.fromkeys(("datasets", "dataset", "dataset_name", "train_file"), _DATASET),
    **dict.fromkeys(("test_datasets", "eval_dataset", "validation_file"), "data.validation.datasets[].dataset_name"),
    **dict.fromkeys(("val_set_size", "val_size"), _PART),
    **dict.fromkeys(("sequence_len", "cutoff_len", "max_seq_length", "block_size"), _LENGTH),
    **dict.fromkeys(("micro_batch_size", "batch_size"), "training.per_device_train_batch_size"),
    **dict.fromkeys(("num_epochs", "epochs"), "training.num_train_epochs"),
    **dict.fromkeys(("adapter", "finetuning_type"), "training.use_peft: true"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_bit"), "peft.q_lora: true, and peft.q_lora_bits"),
    **dict.fromkeys(("rl", "stage"), "training.trainer_type: SFT, PRETRAIN, DPO, KTO or REWARD"),
    **dict.fromkeys(("flash_attention", "flash_attn", "sdp_attention"), "model.attn_implementation"),
    **dict.fromkeys(("wandb_project", "use_wandb"), "training.enable_wandb: true"),
    **dict.fromkeys(("adapter_name_or_path", "lora_model_dir"), "model.adapter_model"),
    **dict.fromkeys(("gradient_checkpointing", "use_gradient_checkpointing"), "training.enable_gradient_checkpointing"),
    **dict.fromkeys(("bf16", "fp16", "pure_bf16"), "training.mixed_precision_dtype: BF16 or FP16"),
    **dict.fromkeys(("dtype", "torch_dtype"), "model.torch_dtype_str"),
    "sample_packing": "training.trainer_kwargs.packing",
    "eval_sample_packing": "training.trainer_kwargs.eval_packing",
    "train_on_inputs": "training.trainer_kwargs.completion_only_loss",
    "train_on_prompt": "training.trainer_kwargs.completion_only_loss",
    "lr_scheduler": "training.lr_scheduler_type",
    "lora_rank": "peft.lora_r",
    "lora_target": "peft.lora_target_modules",
    "lora_target_linear": "peft.lora_target_modules: [all-linear]",
    "special_tokens": "model.tokenizer_kwargs",
    "tokens": "model.new_special_tokens",
    "template": "model.chat_template",
    "dataset_dir": "data.train.datasets[].dataset_path",
    "dataset_config": "data.train.datasets[].subset",
    "max_samples": "data.train.datasets[].sample_count",
    "streaming": "data.train.stream",
    "preprocessing_num_workers": "data.train.datasets[].transform_num_workers",
    "pref_beta": "training.trainer_kwargs.beta",
    "pref_loss": "training.trainer_kwargs.loss_type",
    "plot_loss": "nothing: trainwright jobs serve draws it",
    "do_train": "nothing: a run trains",
}
"""What to write, by a key that stands at the top of a file of theirs."""
