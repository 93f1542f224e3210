"""`tlab_trainer`: any script as a tracked job."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

from trainwright.errors import JobError, as_raised, did_you_mean, raise_as_it_was
from trainwright.jobs import commands, paths, processes, values
from trainwright.jobs.outcomes import JobStopped
from trainwright.jobs.status import COMPLETE, FAILED, STOPPED
from trainwright.jobs.tracking import datasets, models, tracking, unread
from trainwright.jobs.tracking import params as parameters
from trainwright.trackers import table
from trainwright.trackers.callback import SilentCallback, TrackerCallback
from trainwright.trackers.tracker import TrackedRun, Trackers

Function = Callable[..., Any]


class TrainerJob:
    """The job that a script is: its parameters, data, progress and metrics.

    Attributes:
        params: its parameters; also by `tlab_trainer.<name>`.
        report_to: names of the trackers that a Trainer may report to.
    """

    def __init__(self) -> None:
        self.params = self._set_before = parameters.Params()
        self.report_to: list[str] = []
        self._parser = parameters.Parser()
        self._trackers: Trackers | None = None
        self._span = (0.0, 100.0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "params" not in self.__dict__:
            raise AttributeError(name)
        if name not in self.params:
            raise AttributeError(
                f"There is no parameter '{name}'.{did_you_mean(name, self.params)} Give it with --{name} VALUE or in "
                f"--input_file, or take params.get('{name}', DEFAULT)."
            )
        return self.params[name]

    def add_argument(self, *names: str, **settings: Any) -> None:
        """Declare a parameter as for argparse, with its type, default and choices; checked when the job begins."""
        self._parser.add_argument(*names, **settings)

    def job_wrapper(
        self, progress_start: float = 0, progress_end: float = 100, wandb_project_name: str = "TLAB_Training",
        manual_logging: bool = False,
    ) -> Callable[[Function], Function]:  # fmt: skip
        """Return a decorator that makes a function's run a job.

        A function that raises ends it FAILED, and the error goes on; one that returns False too. Asked to stop, the job
        ends STOPPED and the function's call returns None.

        Args:
            progress_start, progress_end: the part of the job's progress that a Trainer's training is, in percent.
            wandb_project_name: of W&B, where that is configured.
            manual_logging: the script logs by `log_metric`, which then writes to TensorBoard and W&B too.
        """

        def decorate(function: Function) -> Function:
            @as_raised
            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                with self._job(function, (progress_start, progress_end), wandb_project_name, manual_logging) as ended:
                    return ended(function(*args, **kwargs))

            return run

        return decorate

    def async_job_wrapper(
        self, progress_start: float = 0, progress_end: float = 100, wandb_project_name: str = "TLAB_Training",
        manual_logging: bool = False,
    ) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:  # fmt: skip
        """Return the decorator of an async function; see `job_wrapper`."""

        def decorate(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                try:
                    with self._job(
                        function, (progress_start, progress_end), wandb_project_name, manual_logging
                    ) as ended:
                        return ended(await function(*args, **kwargs))
                except FrozenInstanceError as error:
                    raise_as_it_was(error)

            return run

        return decorate

    @contextmanager
    def _job(
        self, function: Function, span: tuple[float, float], project: str, manual: bool
    ) -> Iterator[Callable[[Any], Any]]:
        """Read the parameters, be a job while the body runs, and give the function that sees its result."""
        argv = sys.argv[1:]
        self._parser.answer_help(argv)
        own = parameters.own_options(argv)
        around, before = tracking.current(), (self.params, self._span, self._trackers, self.report_to)
        job, of_job = _which(around, own["job_id"])
        given = parameters.read(self._parser, argv, of_job / paths.PARAMS if of_job else None)
        name = commands.name_of(Path(sys.argv[0])) or function.__name__
        output = str(of_job / "output") if of_job else "output"
        given = given.with_defaults({"output_dir": output, **self._set_before}, job)
        shown, usual = parameters.as_written(given), self._parser.defaults()
        with tracking.tracked(name, shown, own["experiment_name"], job, usual) as tracked:
            if tracked is not None and around is not None and paths.job_of_this_process():
                named = {name: value for name, value in shown.items() if name != "output_dir" or name in tracked.params}
                tracked.describe(named, usual)  # the queue had the texts of a command line
            folder = tracked.folder if tracked else Path.cwd()
            self.params, self._span = given, span
            self.report_to = [] if manual else table.wanted(given)
            writes = manual and tracking.is_first_rank()
            self._trackers = Trackers({one: table.new(one) for one in table.wanted(given)}) if writes else None
            if self._trackers is not None:
                self._trackers.begin(TrackedRun(name, dict(given), folder / "logs", given["output_dir"], project))
            status = FAILED
            self.progress_update(span[0])
            given.begin()
            try:
                yield functools.partial(self._returned, tracked)
                status = COMPLETE
                if tracked is not None and around is None:
                    tracked.remark(unread.told(given, function))
            except JobStopped:
                status = STOPPED
                if around is None:
                    raise
            except BaseException as error:
                if tracked is not None:
                    tracking.note_failure(tracked, error)
                raise
            finally:
                if self._trackers is not None:
                    self._trackers.finish(status)
                self._trackers = None
                if around is not None:
                    self.params, self._span, self._trackers, self.report_to = before

    def _returned(self, tracked: tracking.Tracking | None, result: Any) -> Any:
        if tracked is not None and result is False:
            tracked.failed = tracked.failed or (FAILED, "The function returned False.", None)
        elif tracked is not None and not tracked.acted:
            tracked.progress(self._span[1])
        return result

    def load_config(self) -> dict[str, Any]:
        """Return what the input file holds, as it is there; the parameters have it already."""
        return dict(self.params._config)

    def _ensure_args_parsed(self) -> None:
        """Do nothing: parameters are read when the job begins. Plugins call it."""

    def load_dataset(self, dataset_types: Sequence[str] = ("train",), config_name: str | None = None) -> dict[str, Any]:
        """Return the splits of the data that the parameter `dataset_name` names, by split.

        Raises:
            JobError: there is no such parameter.
            DataError: there is no such data.
        """
        name = self.params.get("dataset_name") or self.params.get("dataset")
        if not name:
            raise JobError(
                "load_dataset() needs the parameter 'dataset_name': --dataset_name FILE, FOLDER or hub name."
            )
        return datasets.load(str(name), dataset_types, config_name)

    def create_progress_callback(self, framework: str = "huggingface") -> SilentCallback:
        """Return the callback that tells the job what a Trainer does; with tracking off one that tells nobody.

        Raises:
            JobError: another framework than huggingface.
        """
        if framework not in ("huggingface", "hf"):
            raise JobError(f"create_progress_callback(framework='{framework}') is not there; 'huggingface' is.")
        job = tracking.current()
        if job is None:
            return SilentCallback()
        from trainwright.trackers.job import JobTracker

        return TrackerCallback(JobTracker(job, *self._span))

    def progress_update(self, progress: float) -> None:
        """Note how far the job is, from 0 to 100; a job that is asked to stop ends here."""
        job = tracking.reporter()
        if job is not None:
            job.progress(progress)
            if job.stop_requested:
                job.stopped()

    def log_metric(self, name: str, value: float, step: int | None = None, logging_platforms: bool = True) -> None:
        """Note a metric's value, in the job and, with `manual_logging`, in the trackers.

        A value or a step that is no number is left out, which is said once; no script ends because of a metric.
        """
        job = tracking.reporter()
        if job is None and self._trackers is None:
            return
        try:
            name, value, step = values.point(name, value, step)
        except ValueError as error:
            tracking.left_out(str(error))
            return
        if job is not None:
            step = job.metric(name, value, step)
        if self._trackers is not None and logging_platforms:
            self._trackers.log({name: value}, step)

    def create_transformerlab_model(
        self, fused_model_name: str, model_architecture: str, json_data: Mapping[str, Any] | None = None,
        output_dir: str | Path | None = None, generate_json: bool = True, pipeline_tag: str | None = None,
        parent_model: str | None = None,
    ) -> str:  # fmt: skip
        """Make a model's folder with its description and card; return the folder, which may hold the model already.

        Args:
            fused_model_name: the model's name, and its folder's.
            model_architecture: such as LlamaForCausalLM.
            json_data: what else is to be said of it.
            output_dir: where the folder is made; by default the job's folder of models.
            generate_json: write `info.json` too.
            pipeline_tag: what the model is for, such as text-generation.
            parent_model: that it was made from; by default the parameter `model_name`.

        Raises:
            JobError: that is no name of a folder, or it cannot be written.
        """
        job = tracking.reporter()
        place = (
            Path(output_dir) if output_dir is not None else (job.folder if job else Path(self.output_dir)) / "models"
        )
        about = models.Model(
            name=fused_model_name, architecture=model_architecture, pipeline_tag=pipeline_tag,
            parent=parent_model or self.params.get("model_name"), more=dict(json_data or {}),
            job=None if job is None else job.id,
        )  # fmt: skip
        folder = str(models.describe(place / models.folder_name(fused_model_name), about, generate_json))
        if job is not None:
            job.artifact("model", folder)
        return folder

    def add_job_data(self, key: str, value: Any) -> None:
        """Keep something with the job."""
        job = tracking.reporter()
        if job is not None:
            job.data(key, value)

    @property
    def job(self) -> tracking.Tracking | None:
        """The running job, if there is one."""
        return tracking.current()

    @property
    def resumes(self) -> bool:
        """Whether the job goes on where it had stopped."""
        return paths.resumes()

    @property
    def output_dir(self) -> str:
        """Where the job's results belong: the parameter `output_dir`, by default a folder of the job's own."""
        return str(self.params.get("output_dir") or "output")


def _which(around: tracking.Tracking | None, asked: str | None) -> tuple[str, Path | None]:
    """Return the job that this process is to be, and its folder: the same on all ranks of a launch.

    What a job begins by torchrun or accelerate is that job; a script that it begins otherwise is one of its own.
    """
    if around is not None:  # it has its folder already
        return around.id, paths.job_folder(around.id)
    owner = os.environ.get(paths.OWNER, "").partition(":")[0] if processes.is_launched() else None
    known = asked or os.environ.get(paths.JOB_ID) or owner or processes.launch()
    job = known or paths.new_id()
    has_folder = not paths.is_off() and paths.has_home() and (known is not None or tracking.is_tracked())
    return job, paths.job_folder(job) if has_folder else None


tlab_trainer = TrainerJob()
