"""The keys of the files of algebra and imitation, and what becomes of them by the kind of model or policy: as `uses`
for language. Under `train`, every name of TrainingArguments stands besides those that are here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainwright.config.keys.lines import Fate, Line
from trainwright.errors import ConfigError

ALGEBRA = {
    "dataset": (
        "task", "save_dir", "num_train_samples", "num_test_samples", "root_seed", "n_jobs", "batch_size", "verbose",
        "backend", "save_text", "save_json",
    ),
    "data": (
        "lexer_config", "train_dataset_path", "test_dataset_path", "num_train_samples", "num_test_samples",
        "validate_train_tokens", "validate_test_tokens", "use_jsonl", "train_dataset_jsonl", "test_dataset_jsonl",
        "use_pickle", "train_dataset_pickle", "test_dataset_pickle",
        "dataset_load_preprocessor", "display_samples", "task",
    ),
    "model": (
        "model_type", "num_encoder_layers", "num_encoder_heads", "num_decoder_layers", "num_decoder_heads", "d_model",
        "encoder_ffn_dim", "decoder_ffn_dim", "max_sequence_length", "dropout", "attention_dropout",
        "activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "classifier_dropout", "activation", "init_std",
        "use_positional_embedding", "input_embedding_type", "embedding_layer_norm", "num_layers", "num_heads",
        "ffn_dim", "seed",
    ),
    "train": (
        "save_dir", "batch_size", "test_batch_size", "warmup_ratio", "optimizer", "num_workers", "wandb",
        "verify_generation", "generation_max_length", "generation_num_beams", "save_safetensors",
    ),
}  # fmt: skip
MODELS = ("generic", "classifier", "bart", "gpt2", "llama")
_DECODERS, _ENCODERS = ("gpt2", "llama"), ("generic", "classifier", "bart")

IMITATION = {
    "data": ("path", "record", "episodes", "held_out", "split_seed", "history", "chunk", "image_shift", "discrete"),
    "data.record": ("env", "expert", "episodes", "seed", "settings"),
    "policy": ("kind", "normalization", "normalization_masks", "seed", "execute", "ensemble"),
    "train": ("early_stopping_patience", "backbone_learning_rate"),
    "rollout": ("env", "episodes", "seed", "success", "workers", "film", "rollout_steps", "settings"),
}
SIZES = {
    "mlp": ("width", "depth", "dropout", "bins"),
    "act": ("width", "heads", "ffn", "encoder_layers", "decoder_layers", "latent", "dropout", "kl_weight"),
    "diffusion": ("width", "depth", "noise_steps", "sample_steps"),
}


def _line(keys: str, kinds: tuple[str, ...], why: str, fate: Fate = Fate.REFUSED, **more: Any) -> Line:
    return Line(tuple(keys.split()), kinds, fate, why, "" if fate is Fate.NO_EFFECT else "leave it out", **more)


_MODEL = (
    _line("model.encoder_layerdrop model.decoder_layerdrop", ("generic", "classifier", *_DECODERS),
          "BART alone drops layers", fine=(0,)),
    _line("model.classifier_dropout", MODELS, "no classifier here has one", fine=(0,)),
    _line("model.activation_dropout", _DECODERS, "GPT-2 and Llama have none", fine=(0,)),
    _line("model.dropout", ("llama",), "Llama has none but attention_dropout", fine=(0,)),
    _line("model.input_embedding_type", ("bart", *_DECODERS), "transformers' models have a table",
          fine=("token", "default", "learned")),
    _line("model.embedding_layer_norm", ("bart",), "BART always has it", fine=(True,)),
    _line("model.embedding_layer_norm", _DECODERS, "GPT-2 and Llama have none", fine=(False,)),
    _line("model.num_layers model.num_heads model.ffn_dim", _ENCODERS, "encoder and decoder have their own"),
    _line("model.num_encoder_layers model.num_encoder_heads model.encoder_ffn_dim", _DECODERS,
          "a decoder alone has no encoder", Fate.NO_EFFECT),
    _line("model.num_decoder_layers model.num_decoder_heads model.decoder_ffn_dim", ("classifier",),
          "a classifier has no decoder", Fate.NO_EFFECT),
)  # fmt: skip
ALGEBRA_LINES = (
    *_MODEL,
    _line("dataset.batch_size dataset.verbose", MODELS, "it changes no problem", Fate.NO_EFFECT),
    _line("data.validate_train_tokens data.validate_test_tokens", MODELS, "every token is checked, once",
          Fate.NO_EFFECT, fine=(True,)),
    _line("data.train_dataset_path data.test_dataset_path", MODELS, "use_jsonl: false", Fate.NO_EFFECT,
          used_if=lambda data: not (data.get("use_jsonl") and data.get("train_dataset_jsonl"))
          and not (data.get("use_pickle") and data.get("train_dataset_pickle"))),
    _line("data.train_dataset_pickle data.test_dataset_pickle", MODELS, "use_pickle: true", Fate.NO_EFFECT,
          used_if=lambda data: data.get("use_pickle")),
    _line("data.train_dataset_jsonl data.test_dataset_jsonl", MODELS, "use_jsonl: true", Fate.NO_EFFECT,
          used_if=lambda data: data.get("use_jsonl")),
    _line("train.resume_from_checkpoint", MODELS, "a run goes on with --resume, in its own folder"),
    _line("train.save_safetensors", MODELS, "safetensors are always used", Fate.NO_EFFECT, fine=(True,)),
)  # fmt: skip


def use(section: Mapping[str, Any], name: str, kind: str) -> Iterator[str]:
    """Yield a sentence for every key of a section that is given and has no effect.

    Args:
        section: of algebra's file.
        name: what it is called.
        kind: of model.

    Raises:
        ConfigError: a key that this kind of model refuses.
    """
    for line in ALGEBRA_LINES:
        if kind not in line.trainers or (line.used_if is not None and line.used_if(section)):
            continue
        given = [key for key in line.keys if key.startswith(f"{name}.")]
        values = {key: section.get(key.partition(".")[2]) for key in given}
        given = [key for key, value in values.items() if value is not None and value not in line.fine]
        if given and line.fate is Fate.REFUSED:
            raise ConfigError(f"cfg.{given[0]} is {values[given[0]]!r}, but {line.why}; {line.instead}.")
        if given:
            has, reason = "has" if len(given) == 1 else "have", ":" if line.used_if is None else " without"
            yield f"{', '.join(given)} {has} no effect{reason} {line.why}."
