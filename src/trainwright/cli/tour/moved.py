"""Where the names of other packages are here: the table of `trainwright doors` and of docs/doors.md
(`python -m trainwright.cli.tour.moved` prints the page)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_PIPELINES = "trainwright.pipelines"
_CONFIG = "trainwright.config"
_JOBS = "trainwright.jobs"


@dataclass(frozen=True)
class Row:
    """Names that one module has.

    Attributes:
        old: the module that scripts import them from.
        names: of what is imported.
        new: the module that has them here, by the same names; empty where there is no counterpart.
        note: what to do where there is none.
    """

    old: str
    names: tuple[str, ...]
    new: str = ""
    note: str = ""


@dataclass(frozen=True)
class System:
    """One package, or the part of one, whose imports are replaced.

    Attributes:
        title: its heading.
        roots: modules whose names these are, with all modules below them.
        rows: its names. A name counts wherever below a root it is imported from.
        whole: by module: what `import module` becomes.
        rest: of names that no row has: where they are (transformers' own, which are here too).
        own: names that no row has stay where they are, without a word.
        about: what the page says before the table.
    """

    title: str
    roots: tuple[str, ...]
    rows: tuple[Row, ...]
    whole: tuple[tuple[str, str], ...] = ()
    rest: tuple[tuple[str, str], ...] = ()
    own: bool = False
    about: str = ""

    def row(self, name: str) -> Row | None:
        """Return the row that has a name."""
        return next((row for row in self.rows if name in row.names), None)


_FILE = "a file: `trainwright init {0}`, then `trainwright train {0}.yaml`"

TRANSFORMERS = System(
    "transformers",
    ("transformers",),
    (
        Row(
            "transformers",
            ("Trainer", "Seq2SeqTrainer", "TrainingArguments", "Seq2SeqTrainingArguments", "IntervalStrategy",
             "SaveStrategy", "TrainerCallback", "CallbackHandler", "DefaultFlowCallback", "EarlyStoppingCallback",
             "ProgressCallback", "PrinterCallback", "TrainerState", "TrainerControl", "EvalPrediction",
             "EvalLoopOutput", "PredictionOutput", "TrainOutput", "BestRun", "set_seed", "default_data_collator"),
            "trainwright",
        ),
    ),
    whole=(("transformers", "trainwright"),),
    rest=(("transformers", "trainwright"),),
    own=True,
    about="""\
Every other name of `transformers` itself (models, tokenizers, configurations, collators, schedules, `pipeline`) is
transformers' own, and is in `trainwright` too, so the whole line changes. `transformers.utils`, `transformers.models…`
and the like stay as they are; names of the first table are replaced from wherever they come, such as
`transformers.trainer_callback`. Modules around transformers' Trainer (`transformers.trainer_utils`, …) are not in
`trainwright`.""",
)  # fmt: skip

TRL = System(
    "TRL",
    ("trl",),
    (
        Row("trl", ("SFTTrainer", "SFTConfig"), note=_FILE.format("sft")),
        Row("trl", ("DPOTrainer", "DPOConfig"), note=_FILE.format("dpo")),
        Row("trl", ("KTOTrainer", "KTOConfig"), note=_FILE.format("kto")),
        Row("trl", ("RewardTrainer", "RewardConfig"), note=_FILE.format("reward")),
        Row(
            "trl",
            ("ModelConfig", "ScriptArguments", "TrlParser", "get_peft_config", "get_quantization_config",
             "get_kbit_device_map"),
            note="sections `model` and `peft` of a file, and words such as `model.model_name=…` behind it",
        ),
    ),
    about="""\
TRL's trainers are described by a file; `trainer_type: TRL_SFT`, `TRL_DPO` and so on train the same file with TRL, and
`trainwright compare` both side by side.""",
)  # fmt: skip

OUMI = System(
    "Oumi",
    ("oumi",),
    (
        Row(
            "oumi.core.configs",
            ("TrainingConfig", "TrainingParams", "TrainerType", "ModelParams", "DataParams", "DatasetParams",
             "DatasetSplitParams", "PeftParams", "FSDPParams", "DeepSpeedParams", "MixedPrecisionDtype"),
            _CONFIG,
        ),
        Row("oumi.core.trainers", ("BaseTrainer",), _CONFIG),
        Row("oumi.core.trainers", ("Trainer",), "trainwright"),
        Row("oumi.train", ("train",), _CONFIG),
        Row("oumi.core.trainers", ("HuggingFaceTrainer",), note="`trainwright.config.build(config)`, or `Trainer`"),
        Row("oumi.core.registry", ("register_dataset", "BaseSftDataset"), note="`column_map` (formats.md)"),
        Row(
            "oumi.core.types.conversation",
            ("Conversation", "Message", "Role"),
            note='rows are dictionaries: `{"messages": [{"role": "user", "content": "…"}, …]}`',
        ),
        Row(
            "oumi.builders",
            ("build_model", "build_tokenizer", "build_dataset", "build_dataset_mixture", "build_trainer",
             "build_training_callbacks", "build_collator_from_config"),
            note="`trainwright.config.build(config)` makes the whole",
        ),
        Row(
            "oumi",
            ("evaluate", "infer", "infer_interactive", "quantize", "synthesize", "tune", "judge_dataset",
             "EvaluationConfig", "InferenceConfig", "GenerationParams"),
            note="training alone is here",
        ),
    ),
    about="""\
Files are read as they are: `trainwright.config.load(path).config` is a `TrainingConfig`, and
`trainwright train file.yaml` the command.""",
)  # fmt: skip

CALT = System(
    "CALT",
    ("calt",),
    (
        Row("calt", ("DatasetPipeline", "IOPipeline", "ModelPipeline", "TrainerPipeline", "Trainer"), _PIPELINES),
        Row("calt.trainer", ("apply_dryrun_settings", "count_cuda_devices", "load_from_checkpoint"), _PIPELINES),
        Row(
            "calt.io",
            ("ChainLoadPreprocessor", "ExpandedFormLoadPreprocessor", "LastElementLoadPreprocessor",
             "ReversedOrderLoadPreprocessor", "TextToSageLoadPreprocessor", "UserCallableLoadPreprocessor"),
            _PIPELINES,
        ),
        Row(
            "calt.io.preprocessor.load_preprocessors",
            ("TextDefaultLoadPreprocessor", "JsonlDefaultLoadPreprocessor", "PickleDefaultLoadPreprocessor"),
            _PIPELINES,
        ),
        Row("calt.models", ("register_input_embedding",), _PIPELINES),
        Row("calt.io.preprocessor", ("NumberPolicy",), "trainwright.tasks.algebra.lexer"),
        Row(
            "calt.io.preprocessor",
            ("UnifiedLexer", "VocabConfig"),
            note='the mapping of a `lexer.yaml`: `data["lexer_config"] = {"vocab": …, "number_policy": …}`',
        ),
        Row("calt.io", ("DatasetLoadPreprocessor",), note="any class with `process_sample(source)`; no base is needed"),
        Row(
            "calt.dataset.utils.statistics_calculator",
            ("BaseStatisticsCalculator",),
            note="any function `f(problem, answer)` that returns numbers by name",
        ),
        Row(
            "calt.models",
            ("ModelRegistry", "get_model", "get_model_from_config", "ModelLoader", "Transformer", "TransformerConfig"),
            note="`ModelPipeline.from_io_dict(cfg.model, io_dict).build()`",
        ),
        Row(
            "calt.models",
            ("MonomialTransformer", "MonomialTransformerConfig"),
            note="`model_type: generic` with `dataset_load_preprocessor: expanded_form`",
        ),
        Row("calt.models", ("DecoderOnlyTransformer", "DecoderOnlyConfig"), note="`model_type: decoder_only`"),
        Row("calt.models", ("EncoderClassifier", "EncoderClassifierConfig"), note="`model_type: encoder_classifier`"),
        Row("calt.models", ("register_positional_embedding", "get_positional_embedding"),
            note="the positions learned, sinusoidal, rope and none"),
        Row("calt.trainer", ("TrainerLoader",), note="`TrainerPipeline.from_io_dict(…).build()`"),
        Row("calt.io", ("StandardDataset", "StandardDataCollator"), note="what `IOPipeline…build()` returns"),
        Row("calt.dataset.sympy", ("PolynomialSampler",), note="a function of a seed (algebra.md)"),
        Row("calt.io.visualization", ("display_with_diff", "load_eval_results"),
            note="`trainwright algebra eval RUN` prints wrong answers with what differs marked"),
        Row("calt.remote", ("run_remote_job", "RemoteRunConfig"), note="`trainwright jobs submit`, on this machine"),
    ),
    whole=(("calt", _PIPELINES), ("calt.trainer", _PIPELINES)),
)  # fmt: skip

TRANSFORMER_LAB = System(
    "Transformer Lab",
    ("transformerlab", "lab"),
    (
        Row("transformerlab.sdk.v1.train", ("tlab_trainer",), _JOBS),
        Row("lab", ("lab",), _JOBS),
        Row("transformerlab.sdk.v1.evals", ("tlab_evals",),
            note="`lab.save_artifact(df, type=\"evals\")` and `lab.finish(score={…})` of `trainwright.jobs`"),
        Row("transformerlab.sdk.v1.generate", ("tlab_gen",), note="`lab.save_dataset` of `trainwright.jobs`"),
        Row("transformerlab.sdk.v1.export", ("tlab_exporter",), note="`lab.save_model` of `trainwright.jobs`"),
        Row("transformerlab.sdk.v1.diffusion", ("tlab_diffusion",), note="images are not generated here"),
    ),
)  # fmt: skip

IMITATION = System(
    "IL-Studio and LeRobot",
    ("policy.trainer", "lerobot"),
    (
        Row("policy.trainer", ("BaseTrainer",), "trainwright"),
        Row("lerobot.datasets.lerobot_dataset", ("LeRobotDataset", "LeRobotDatasetMetadata"),
            note="`data.path` of a file names the folder (imitation.md)"),
        Row("lerobot.policies.act", ("ACTPolicy", "ACTConfig"), note="`policy.kind: act` of a file"),
        Row("lerobot.policies.diffusion", ("DiffusionPolicy", "DiffusionConfig"),
            note="`policy.kind: diffusion` of a file"),
        Row("lerobot.policies.factory", ("make_policy", "make_pre_post_processors"),
            note="`trainwright.tasks.imitation.loading.load_policy(folder)` for policies that were trained here"),
        Row("lerobot.scripts.lerobot_train", ("train",), note="`trainwright imitation train FILE`"),
    ),
    about="Folders of LeRobot are read; its policies are not loaded.",
)  # fmt: skip

SYSTEMS = (TRANSFORMERS, TRL, OUMI, CALT, TRANSFORMER_LAB, IMITATION)

_HEAD = """# Imports

Scripts written for other packages keep their body; the imports change. Nothing of theirs is shadowed: both packages may
be installed side by side.

```bash
trainwright doors script.py            # what would change, as a diff; names without a counterpart, with their line
trainwright doors script.py --write    # changes the file
```

The command goes by the tables of this page (`python -m trainwright.cli.tour.moved` prints it). A name counts from
wherever in its package it is imported. What changes besides is on the pages that the table of [the doors](index.md)
names.
"""


NOT_HERE = ("trainer_", "training_args")
"""How transformers' modules around its Trainer begin, which trainwright does not have."""


def system_of(module: str) -> System | None:
    """Return the package that a module belongs to."""
    for system in SYSTEMS:
        if any(module == root or (module.startswith(f"{root}.") and root != "lab") for root in system.roots):
            return system
    return None


def page() -> str:
    """Return docs/doors.md."""
    return "\n".join([_HEAD, *(line for system in SYSTEMS for line in _part(system))])


def _part(system: System) -> Iterator[str]:
    yield f"## {system.title}\n"
    if system.about:
        yield f"{system.about}\n"
    yield "| old | names | new |\n|---|---|---|"
    for row in system.rows:
        names = ", ".join(f"`{name}`" for name in row.names)
        new = f"`from {row.new} import …`" if row.new else f"none: {row.note}"
        yield f"| `from {row.old} import …` | {names} | {new} |"
    yield ""


if __name__ == "__main__":
    print(page(), end="")
