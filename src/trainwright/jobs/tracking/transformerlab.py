"""`lab`: the names of Transformer Lab's newer SDK, on the same tracking."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import commands, paths
from trainwright.jobs.tracking import models, runs
from trainwright.jobs.tracking import params as parameters
from trainwright.trackers.callback import SilentCallback, TrackerCallback

_FOLDERS = {"model": "models", "dataset": "datasets", "evals": "evals", "eval": "evals", "checkpoint": "checkpoints"}


class Lab:
    """The job that a script is from `init` to `finish`."""

    def __init__(self) -> None:
        self._run: runs.Run | None = None
        self._config: dict[str, Any] = {}

    def init(self, experiment_id: str | None = None, config: Mapping[str, Any] | None = None) -> None:
        """Begin; parameters of the command line, of `--input_file` and of the queue go before those of `config`.

        Raises:
            JobError: the run before is not finished, or a file of parameters is none.
        """
        argv = sys.argv[1:]
        own = parameters.own_options(argv)
        queued = paths.job_of_this_process()
        file = paths.job_folder(queued) / paths.PARAMS if queued else None
        given = parameters.read(parameters.Parser(), argv, file)
        self._config = {**(config or {}), **given}
        name = commands.name_of(Path(sys.argv[0]))
        self._run = runs.init(name, self._config, experiment_id or own["experiment_name"], own["job_id"])

    @property
    def run(self) -> runs.Run:
        """The run.

        Raises:
            JobError: there is none yet.
        """
        if self._run is None:
            raise JobError("lab.init() comes first: there is no job yet.")
        return self._run

    def get_config(self) -> dict[str, Any]:
        """Return the parameters: as they were given, with what `set_config` added."""
        return dict(self._config)

    def set_config(self, config: Mapping[str, Any]) -> None:
        """Add parameters, which are kept with the job as its data."""
        self._config |= config
        self.set_job_data_field("config", self._config)

    def log(self, message: str) -> None:
        """Print a line, and keep it with the job."""
        print(message, flush=True)
        if self.run.job is not None:
            self.run.job.event("log", message)

    def update_progress(
        self, progress: float, metrics: Mapping[str, float] | None = None, step: int | None = None
    ) -> None:
        """Note how far the job is, from 0 to 100, and metrics; leave where the job is asked to stop."""
        if metrics:
            self.run.log(metrics, step)
        self.run.progress(progress)

    def save_artifact(
        self,
        source_path: Any,
        name: str | None = None,
        type: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Copy a file or folder, or write a table of pandas', to the job's folder; return where it is then.

        Where nothing is tracked the path is returned as it is.

        Args:
            source_path: the file, folder or table.
            name: it is to have; by default its own.
            type: model, dataset, evals or checkpoint; others are artifacts.
            config: what is to be said of a model.

        Raises:
            JobError: there is no such file, or it cannot be copied.
        """
        run = self.run
        if run.job is None:
            return str(source_path)
        folder = run.job.folder / _FOLDERS.get(type or "", "artifacts")
        made = _kept(source_path, folder, name)
        if type == "model" and made.is_dir():
            about = dict(config or {})
            about |= about.pop("model", {})
            tag, parent = about.pop("pipeline_tag", None), about.pop("parent_model", None)
            model = models.Model(made.name, about.pop("architecture", None), tag, parent, run.id, about)
            models.describe(made, model)
        run.job.artifact(type or "artifact", str(made))
        return str(made)

    def save_dataset(self, source_path: Any, name: str | None = None) -> str:
        """Keep a dataset; see `save_artifact`."""
        return self.save_artifact(source_path, name, "dataset")

    def save_checkpoint(self, source_path: str, name: str | None = None) -> str:
        """Keep a checkpoint, which `get_checkpoint_to_resume` gives a job that goes on; see `save_artifact`."""
        return self.save_artifact(source_path, name, "checkpoint")

    def save_model(
        self,
        source_path: str,
        name: str | None = None,
        architecture: str | None = None,
        pipeline_tag: str | None = None,
        parent_model: str | None = None,
    ) -> str:
        """Keep a model, with its description and card; see `save_artifact`."""
        about = {"architecture": architecture, "pipeline_tag": pipeline_tag, "parent_model": parent_model}
        return self.save_artifact(source_path, name, "model", about)

    def get_checkpoint_to_resume(self) -> str | None:
        """Return the newest checkpoint that was kept, where the job goes on; else None."""
        folder = self.run.folder
        kept = [] if folder is None or not paths.resumes() else [*(folder / "checkpoints").glob("*")]
        return str(max(kept, key=lambda path: path.stat().st_mtime)) if kept else None

    def set_job_data_field(self, key: str, value: Any) -> None:
        """Keep something with the job."""
        if self.run.job is not None:
            self.run.job.data(key, value)

    def get_hf_callback(self) -> SilentCallback:
        """Return the callback that tells the job what a Trainer does."""
        from trainwright.trackers.job import JobTracker

        return SilentCallback() if self.run.job is None else TrackerCallback(JobTracker(self.run.job))

    def finish(
        self,
        message: str = "Job completed successfully",
        score: Mapping[str, Any] | None = None,
        additional_output_path: str | None = None,
        plot_data_path: str | None = None,
    ) -> None:
        """End the job, and keep its message and score, numbers by name.

        Raises:
            JobError: the score is a number without a name.
        """
        if score is not None and not isinstance(score, Mapping):
            raise JobError(f"lab.finish(score={score!r}): numbers by name are expected, as in score={{'score': 0.78}}.")
        self.set_job_data_field("completion_details", message)
        if score is not None:
            self.set_job_data_field("score", dict(score))
        for kind, path in (("output", additional_output_path), ("plot", plot_data_path)):
            if path and self.run.job is not None:
                self.run.job.artifact(kind, path)
        self.run.finish()

    def error(self, message: str = "") -> None:
        """End the job as FAILED."""
        self.run.fail(message or "The script called lab.error().")


def _kept(source: Any, folder: Path, name: str | None) -> Path:
    """Copy a file, folder or table into a folder, whole or not at all; return the copy."""
    is_table = hasattr(source, "to_csv")
    made = folder / models.folder_name(name or ("table.csv" if is_table else Path(source).name))
    if is_table and not made.suffix:
        made = made.with_suffix(".csv")
    part = folder / f".{made.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_table:
            source.to_csv(part, index=False)
        elif Path(source).is_dir():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
        else:
            shutil.copy2(source, part)
        if made.is_dir():
            shutil.rmtree(made)
        part.replace(made)
    except OSError as error:
        raise JobError(f"'{source}' cannot be kept with the job: {error.strerror or error}.") from error
    return made


lab = Lab()
