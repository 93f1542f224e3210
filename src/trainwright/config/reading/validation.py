"""What can be wrong with a file whose keys and types are right, as far as it can be known before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainwright.args.names import LOG_LEVELS, SCHEDULERS_WITHOUT_TOTAL
from trainwright.config import methods
from trainwright.config.keys.uses import OWN_MODELS
from trainwright.config.methods import Fault
from trainwright.config.options import TextOptions
from trainwright.config.params import TrainingParams
from trainwright.config.reading import packages
from trainwright.config.schema import DatasetParams, DatasetSplitParams, ModelParams, PeftParams, TrainingConfig
from trainwright.data.sources import registered
from trainwright.data.sources.formats import LEARNED_FROM
from trainwright.errors import did_you_mean
from trainwright.world import current_world

FORMATS = ("json", "jsonl", "csv", "tsv", "parquet", "arrow", "text", "text_sft_jsonl", "text_sft", "preference_jsonl")
OWN_DATASETS = ("python_source",)
DTYPES = ("auto", "float32", "fp32", "float", "float16", "fp16", "half", "bfloat16", "bf16", "float64", "double")
COLLATORS = ("text_with_padding", "text_completions_only_with_padding")
_COLLATORS_OF_IMAGES = ("vision_language_with_padding", "vision_language_sft")
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_LORA_INITS = ("default", "random", "gaussian", "orthogonal", "mica", "olora", "pissa", "pissa_niter_4")
_LORA_INITS_ELSEWHERE = {
    "eva": "looks at the data first", "corda": "looks at the data first", "lora_ga": "looks at the data first",
    "loftq": "quantises the base itself, with a loftq_config",
}  # fmt: skip
_CHECKPOINTING = (  # of torch.utils.checkpoint, and our own
    "use_reentrant", "preserve_rng_state", "determinism_check", "context_fn", "debug", "early_stop", "every", "offload",
)  # fmt: skip
_STARTS = ("fork", "spawn", "forkserver")
_MODEL_KEYS = {
    "dtype": "model.torch_dtype_str", "torch_dtype": "model.torch_dtype_str", "revision": "model.model_revision",
    "trust_remote_code": "model.trust_remote_code", "attn_implementation": "model.attn_implementation",
    "quantization_config": "peft.q_lora: true", "device_map": "training.use_cpu",
}  # fmt: skip


def faults(config: TrainingConfig) -> Iterator[Fault]:
    """Yield everything that is wrong with a configuration."""
    yield from _trainer(config)
    yield from _model(config)
    yield from _data(config)
    yield from _sources(config)
    yield from _contraries(config)
    yield from _peft(config)
    yield from _switches(config.training)
    yield from _sharded(config)


def _trainer(config: TrainingConfig) -> Iterator[Fault]:
    kind = config.training.trainer_type
    for method in methods.candidates(kind):
        if method.package is not None:
            yield from packages.missing(*method.package, "training.trainer_type", f"trainer_type {kind}")
    if kind in methods.ELSEWHERE:
        ours = [one.name for one in methods.everyone() if not one.library]
        theirs = [one.name for one in methods.everyone() if one.library]
        yield ("training.trainer_type", f"valid, but {kind} is not run here; run it with {methods.ELSEWHERE[kind]}",
               f"ours: {', '.join(ours)}; by the same file: {', '.join(theirs)}")  # fmt: skip
    yield from packages.of_training(config.training)
    resume = config.training.resume_from_checkpoint
    if resume and not Path(resume).is_dir():
        newest = "the newest one is gone on from with try_resume_from_last_checkpoint: true"
        hint = newest if resume.lower() == "true" else "give a checkpoint-N folder"
        yield "training.resume_from_checkpoint", f"there is no folder '{resume}'", hint


BESIDE = ("ref_model", "teacher_model_name_or_path", "teacher_tokenizer_name_or_path")  # folders of other models


def _model(config: TrainingConfig) -> Iterator[Fault]:
    model = config.model
    if model.model_name is None:
        yield "model.model_name", "model.model_name is missing", "give a folder, a hub name, or a model type"
    for name in ("model_name", "tokenizer_name", "adapter_model"):
        value = getattr(model, name)
        if value is not None and _is_folder(value) and not _expanded(value).exists():
            yield f"model.{name}", f"there is no folder '{value}'", _nearest_file(Path(value))
    for name in BESIDE:
        value = config.training.trainer_kwargs.get(name)
        if isinstance(value, str) and value.startswith((".", "/", "~")) and not _expanded(value).exists():
            yield f"training.trainer_kwargs.{name}", f"there is no folder '{value}'", _nearest_file(Path(value))
    if model.torch_dtype_str not in DTYPES:
        near = did_you_mean(model.torch_dtype_str, DTYPES).strip()
        yield "model.torch_dtype_str", f"'{model.torch_dtype_str}' is no number format", near or ", ".join(DTYPES)
    if model.attn_implementation == "flash_attention_2":
        yield from packages.missing("flash_attn", "", "model.attn_implementation", "flash_attention_2")
    yield from _names_of_ours(model)
    if model.model_max_length is not None and model.model_max_length < 1:
        yield "model.model_max_length", f"model_max_length {model.model_max_length} is less than one token", ""


def _is_folder(name: str) -> bool:
    """Whether a name is one of a folder: no hub has such names, or it lies where runs do."""
    is_hubs = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None
    return not is_hubs or (name.startswith("runs/") and Path("runs").is_dir())


def _expanded(path: str | Path) -> Path:
    """Return a path with the home that `~` stands for; that of a user who is not known here stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _names_of_ours(model: ModelParams) -> Iterator[Fault]:
    """Yield names of the model's settings that are keys of their own."""
    for name in _MODEL_KEYS:
        if name in model.model_kwargs:
            what = f"model.model_kwargs.{name} is a key of its own"
            yield f"model.model_kwargs.{name}", what, f"write {_MODEL_KEYS[name]}"


def _data(config: TrainingConfig) -> Iterator[Fault]:
    train = config.data.train
    if not train.datasets:
        yield "data.train", "data.train.datasets is missing, so there is nothing to learn from", "give one dataset_name"
    elif config.model.model_name not in OWN_MODELS:
        yield from packages.missing("datasets", "llm", "data.train.datasets", "reading data from a file")
    validation = config.data.validation.datasets
    if config.training.eval_strategy != "no" and not validation and config.model.model_name not in OWN_MODELS:
        strategy = config.training.eval_strategy
        yield "training.eval_strategy", f"eval_strategy {strategy} needs data.validation.datasets", "or write 'no'"
    if config.training.eval_on_start and not validation and config.model.model_name not in OWN_MODELS:
        yield "training.eval_on_start", "eval_on_start needs data.validation.datasets", "leave it out"
    for split_name, split in (("train", train), ("validation", config.data.validation), ("test", config.data.test)):
        yield from _split(f"data.{split_name}", split)
    params = config.training
    if train.stream and params.max_steps <= 0 and params.lr_scheduler_type not in SCHEDULERS_WITHOUT_TOTAL:
        yield ("data.train.stream", "a stream has no length, so the run needs training.max_steps",
               f"or a schedule without an end: {', '.join(SCHEDULERS_WITHOUT_TOTAL)}")  # fmt: skip
    elif train.stream and params.max_steps <= 0 and 0 < (params.warmup_ratio or params.warmup_steps or 0) < 1:
        yield (f"training.warmup_{'ratio' if params.warmup_ratio else 'steps'}",
               "a share of a run over a stream, whose steps are not known", "give steps, or max_steps")  # fmt: skip
    if train.stream and params.train_sampling_strategy == "group_by_length":
        yield "training.train_sampling_strategy", "a stream cannot be grouped by length", "leave it out"


def _sources(config: TrainingConfig) -> Iterator[Fault]:
    """Yield settings that nothing reads of Python's own source, of which models of code read more."""
    known = ("root",) if config.model.model_name not in OWN_MODELS else ("root", "vocab_size", "block_size")
    for name, split in (("train", config.data.train), ("validation", config.data.validation)):
        for number, one in enumerate(split.datasets):
            if one.dataset_name == "python_source":
                yield from _only(f"data.{name}.datasets.{number}.dataset_kwargs", one.dataset_kwargs, known)


def _contraries(config: TrainingConfig) -> Iterator[Fault]:
    """Yield keys that say the contrary of each other."""
    yield from _lengths(config)
    kwargs = config.training.trainer_kwargs
    if config.data.train.collator_name == COLLATORS[1] and kwargs.get("assistant_only_loss") is False:
        yield ("data.train.collator_name", f"{COLLATORS[1]} learns the assistant's turns alone, and "
               "training.trainer_kwargs.assistant_only_loss is false", "give only one")  # fmt: skip


def _lengths(config: TrainingConfig) -> Iterator[Fault]:
    """Yield lengths of rows that texts are cut into, beside others."""
    given = config.training.trainer_kwargs.get("max_length")
    found = [(number, one.dataset_kwargs.get("seq_length")) for number, one in enumerate(config.data.train.datasets)]
    lengths = [(number, length) for number, length in found if isinstance(length, int)]
    for number, length in lengths:
        path, limit = f"data.train.datasets.{number}.dataset_kwargs.seq_length", config.model.model_max_length
        if length < 2:
            yield path, f"seq_length {length} leaves no token to predict", "2 or more"
        elif length != lengths[0][1]:
            yield path, f"seq_length {length}, but another dataset has {lengths[0][1]}", "rows have one length"
        elif isinstance(given, int) and given != length:
            yield (
                path,
                f"seq_length {length} and training.trainer_kwargs.max_length {given} are two lengths",
                "give one",
            )
        elif limit is not None and length > limit:
            yield path, f"seq_length {length} is more than model.model_max_length {limit}", "give only one"


def _split(path: str, split: DatasetSplitParams) -> Iterator[Fault]:
    proportions = [one.mixture_proportion for one in split.datasets]
    shuffles = split.stream and any(one.shuffle for one in split.datasets)
    for name in ("shuffle", "seed", "shuffle_buffer_size") if shuffles else ():
        if len({getattr(one, name) for one in split.datasets}) > 1:
            what = f"the datasets of a stream are shuffled together, but not all have the same {name}"
            yield f"{path}.datasets", what, "give all of them one, or none"
    if any(one is not None for one in proportions) and any(one is None for one in proportions):
        yield f"{path}.datasets", "mixture_proportion is given for some datasets, but not for all", "give all or none"
    elif proportions and proportions[0] is not None:
        total = sum(one or 0 for one in proportions)
        if abs(total - 1) > 1e-6 or any((one or 0) < 0 for one in proportions):
            yield f"{path}.datasets", f"the mixture_proportions add up to {total:g}, not to 1", "each from 0 to 1"
    if split.collator_name in _COLLATORS_OF_IMAGES:
        what = f"collator {split.collator_name} is for images, and only text can be learned from yet"
        yield f"{path}.collator_name", what, "a recipe of texts"
    elif split.collator_name is not None and split.collator_name not in COLLATORS:
        yield f"{path}.collator_name", f"there is no collator '{split.collator_name}'", f"known: {', '.join(COLLATORS)}"
    for number, one in enumerate(split.datasets):
        yield from _dataset(f"{path}.datasets.{number}", one, split.stream)


def _dataset(path: str, one: DatasetParams, stream: bool) -> Iterator[Fault]:
    name, given = one.dataset_name, one.dataset_path
    if name in registered.IMAGES:
        what = f"the dataset '{name}' is of images, and only text can be learned from yet"
        yield f"{path}.dataset_name", what, "a dataset of texts"
        return
    if name is None and given is None:
        yield path, "a dataset without dataset_name", "give a file, a folder, a hub name, or a format and dataset_path"
        return
    entry = registered.find(name, given)
    known = (*FORMATS, *OWN_DATASETS, *(one for one in registered.REGISTERED if "/" not in one))
    if given is not None and not _expanded(given).exists():
        yield f"{path}.dataset_path", f"there is no file or folder '{given}'", _nearest_file(Path(given))
    elif given is None and name is not None and (name.startswith((".", "/", "~")) or name.endswith(_FILES)):
        if not _expanded(name).exists():
            yield f"{path}.dataset_name", f"there is no file or folder '{name}'", _nearest_file(Path(name))
    elif given is None and (name in FORMATS or (entry is not None and entry.lies_here)):
        yield f"{path}.dataset_name", f"'{name}' is a format, so dataset_path must say where the data is", ""
    elif given is None and name not in known and "/" not in (name or "") and did_you_mean(name or "", known):
        yield f"{path}.dataset_name", f"there is no dataset '{name}'", did_you_mean(name or "", known).strip()
    yield from _columns(path, one)
    yield from _dataset_numbers(path, one, stream)


def _columns(path: str, one: DatasetParams) -> Iterator[Fault]:
    """Yield settings by which columns become what is learned from."""
    entry = registered.find(one.dataset_name, one.dataset_path)
    if (
        one.dataset_path is None
        and one.dataset_name == "HuggingFaceDataset"
        and not one.dataset_kwargs.get("hf_dataset_path")
    ):
        yield f"{path}.dataset_name", "HuggingFaceDataset needs dataset_kwargs.hf_dataset_path", "a name on the hub"
    for what, why, is_refused in registered.unread(entry, one.dataset_kwargs) if entry is not None else ():
        if is_refused:
            yield f"{path}.dataset_kwargs.{what}", f"dataset_kwargs.{what} is not supported: {why}", "leave it out"
    wanted = (*LEARNED_FROM, *registered.COLUMNS, *(name for own in methods.everyone() for name in own.columns))
    for old, new in one.column_map.items():
        names = [other for other, same in one.column_map.items() if same == new]
        if new not in wanted:
            near = did_you_mean(str(new), wanted).strip() or f"known: {', '.join(wanted)}"
            yield f"{path}.column_map.{old}", f"column_map: nothing is learned from a column {new!r}", near
        elif old != names[0]:
            yield f"{path}.column_map.{old}", f"column_map: '{names[0]}' is called '{new}' already", "name one of them"


def _dataset_numbers(path: str, one: DatasetParams, stream: bool) -> Iterator[Fault]:
    if one.sample_count is not None and one.sample_count < 1:
        yield f"{path}.sample_count", f"sample_count {one.sample_count} is less than one row", ""
    size = one.dataset_kwargs.get("dataset_size")
    if isinstance(size, int) and size < 1:
        yield f"{path}.dataset_kwargs.dataset_size", f"dataset_size {size} is less than one row", ""
    workers = one.transform_num_workers
    if workers is not None and workers != "auto" and not (isinstance(workers, int) and workers > 0):
        yield (f"{path}.transform_num_workers", f"transform_num_workers {workers!r} is no number of processes",
               "1 or more, or auto")  # fmt: skip
    if stream and one.shuffle_buffer_size < 1:
        yield f"{path}.shuffle_buffer_size", f"shuffle_buffer_size {one.shuffle_buffer_size} is less than one row", ""


def _sharded(config: TrainingConfig) -> Iterator[Fault]:
    """Yield sections that shard a model, where there are processes to do so."""
    several, trainer = not current_world().is_alone, str(config.training.trainer_type)
    if several and config.fsdp.enable_fsdp and trainer.startswith(("TRL_", "HF")):
        what = f"fsdp.enable_fsdp: {trainer} does not read the section fsdp"
        yield "fsdp.enable_fsdp", what, "write training.fsdp: true and training.fsdp_config, or train with SFT or DPO"
    if several and config.deepspeed.enable_deepspeed:
        what = "deepspeed.enable_deepspeed: DeepSpeed is not supported, and there are several processes"
        yield "deepspeed.enable_deepspeed", what, "leave deepspeed out, and write fsdp.enable_fsdp: true to shard"


def _only(path: str, given: dict[str, Any], known: tuple[str, ...]) -> Iterator[Fault]:
    for name in given:
        if name not in known:
            near = did_you_mean(name, known).strip() or f"known: {', '.join(known)}"
            yield f"{path}.{name}", f"nothing reads {path.rpartition('.')[2]}.{name}", near


def _nearest_file(path: Path) -> str:
    folder = _expanded(path).parent
    return did_you_mean(path.name, [one.name for one in folder.iterdir()]).strip() if folder.is_dir() else ""


def _peft(config: TrainingConfig) -> Iterator[Fault]:
    peft, used = config.peft, config.training.use_peft
    if not used:
        return
    yield from packages.missing("peft", "llm", "training.use_peft", "use_peft")
    if peft.q_lora:
        yield from packages.missing("bitsandbytes", "quant", "peft.q_lora", "q_lora")
    if peft.q_lora_bits not in (4, 8):
        yield "peft.q_lora_bits", f"q_lora_bits {peft.q_lora_bits} is not 4 or 8", ""
    if peft.lora_r < 1:
        yield "peft.lora_r", f"lora_r {peft.lora_r} is less than 1", "the rank of the adapters, such as 8"
    if peft.lora_alpha <= 0:
        yield (
            "peft.lora_alpha",
            f"lora_alpha {peft.lora_alpha:g} is not above 0",
            "what adapters add is multiplied by it",
        )
    if not 0 <= peft.lora_dropout < 1:
        yield "peft.lora_dropout", f"lora_dropout {peft.lora_dropout:g} is not from 0 to below 1", ""
    if peft.lora_bias not in ("none", "all", "lora_only"):
        yield "peft.lora_bias", f"lora_bias '{peft.lora_bias}' is not known", "known: none, all, lora_only"
    yield from _lora_init(peft)
    yield from _patterns(peft)
    able = methods.candidates(config.training.trainer_type)
    tasks = ("CAUSAL_LM", *(task for one in able for task in one.adapter_tasks))  # the first is Oumi's default
    if peft.lora_task_type.removeprefix("TaskType.") not in tasks:
        what = f"lora_task_type {peft.lora_task_type} is not supported"
        yield "peft.lora_task_type", what, " or ".join(dict.fromkeys(tasks))


def _patterns(peft: PeftParams) -> Iterator[Fault]:
    for name, number in (("rank_pattern", "a whole number"), ("alpha_pattern", "a number")):
        for pattern, value in getattr(peft, name).items():
            fits = type(value) is int or (name == "alpha_pattern" and type(value) is float)
            if not fits or value <= 0:
                yield f"peft.{name}", f"{name} gives {value!r} for '{pattern}'", f"{number} above 0"


def _lora_init(peft: PeftParams) -> Iterator[Fault]:
    path, start = "peft.lora_init_weights", str(peft.lora_init_weights).lower()
    known = start in ("true", "false", *_LORA_INITS) or (
        start.startswith("pissa_niter_") and start.removeprefix("pissa_niter_").isdecimal()
    )
    if start in _LORA_INITS_ELSEWHERE:
        yield path, f"'{start}' {_LORA_INITS_ELSEWHERE[start]}, which no file can ask for", "adapt the model in Python"
    elif not known:
        yield path, f"'{peft.lora_init_weights}' is not known", f"known: {', '.join(_LORA_INITS)}"
    elif start.startswith(("pissa", "olora")) and peft.lora_target_parameters:
        yield path, f"'{start}' is for layers, and lora_target_parameters names parameters", "use default"


def _switches(params: TrainingParams) -> Iterator[Fault]:
    if params.dep_log_level.lower() not in LOG_LEVELS:
        near = did_you_mean(params.dep_log_level, LOG_LEVELS).strip() or f"known: {', '.join(LOG_LEVELS)}"
        yield "training.dep_log_level", f"dep_log_level '{params.dep_log_level}' is not known", near
    if params.warmup_ratio is not None and not 0 <= params.warmup_ratio < 1:
        shown = f"warmup_ratio {params.warmup_ratio:g} is no share of the run, from 0 to below 1"
        yield "training.warmup_ratio", shown, "steps are warmup_steps"
    if params.save_steps < 0:
        yield "training.save_steps", f"save_steps {params.save_steps:g} is negative", "0 saves nothing on the way"
    if params.output_dir and str(_expanded(params.output_dir)).startswith("~"):
        yield "training.output_dir", f"output_dir '{params.output_dir}' is in the home of nobody here", "give a folder"
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        yield from _only(f"training.{name}", getattr(params, name) or {}, _CHECKPOINTING)
    start = params.dataloader_multiprocessing_context
    if isinstance(start, str) and start not in _STARTS:
        yield ("training.dataloader_multiprocessing_context", f"there is no start method '{start}'",
               f"known: {', '.join(_STARTS)}")  # fmt: skip
    if params.sgd_momentum and "momentum=" in (params.optim_args or "").replace(" ", ""):
        yield "training.sgd_momentum", "sgd_momentum is given in optim_args too, as momentum", "give only one"
    if isinstance(params.dataloader_num_workers, str) and params.dataloader_num_workers != "auto":
        shown = f"dataloader_num_workers '{params.dataloader_num_workers}' is no number"
        yield "training.dataloader_num_workers", shown, "a number, or auto"


def text_faults(options: TextOptions) -> Iterator[Fault]:
    """Yield what is wrong with the settings that all methods of text have."""
    at, length = "training.trainer_kwargs", options.max_length
    if length is not None and length < 2:
        yield f"{at}.max_length", f"max_length {length} leaves no token to predict", "2 or more"
    for name in ("dataset_num_proc", "pad_to_multiple_of"):
        value = getattr(options, name)
        if isinstance(value, int) and value < 1:
            yield f"{at}.{name}", f"{name} {value} is less than 1", ""
    if isinstance(options.pad_to_multiple_of, str) and options.pad_to_multiple_of != "auto":
        what = f"pad_to_multiple_of {options.pad_to_multiple_of!r} is no whole number"
        yield f"{at}.pad_to_multiple_of", what, "such as 8"
