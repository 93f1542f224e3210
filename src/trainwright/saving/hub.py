"""The Hugging Face hub: what is pushed, where to and when; calls of huggingface_hub, only when asked for.

What is pushed as the model is what a save writes of it, and a card; checkpoints are pushed where the strategy names
them. The files lie as links in a folder of their own meanwhile: nothing else of the run's folder is sent, and nothing
that is sent can be deleted on the way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainwright import compat
from trainwright.checkpoint import folder, layout
from trainwright.data.sources.reach import ask_again
from trainwright.errors import ConfigError
from trainwright.saving.model_card import CARD
from trainwright.session.session import Session


def init_hf_repo(session: Session, token: str | None = None, private: bool | None = None) -> None:
    """Make the repository that the arguments name, if it is not there; the main process does.

    Args:
        session: whose `hub_model_id` it sets.
        token: `hub_token` when not given.
        private: whether it is hidden from others; `hub_private_repo` when not given.

    Raises:
        ConfigError: nothing can be written there, or it should be private and is there already, for everyone to see.
    """
    if session.hooks.is_world_process_zero():
        args = session.args
        name = args.hub_model_id or Path(args.output_dir or ".").resolve().name
        token = args.hub_token if token is None else token
        private = args.hub_private_repo if private is None else private
        session.hub_model_id = repository(name, token, private)


def repository(name: str, token: str | None, private: bool | None) -> str:
    """Return the full name of a repository that can be written to; it is made if it is not there.

    Raises:
        ConfigError: it cannot be written to, or should be private and is not.
    """
    from huggingface_hub import create_repo, model_info

    ask_again()
    try:
        made: str = create_repo(name, token=token, private=private, exist_ok=True).repo_id
        compat.check_writing(made, token)
        seen_by_all = bool(private) and not model_info(made, token=token).private
    except Exception as error:  # of the network, of the hub, of a name that cannot be
        raise ConfigError(
            f"Nothing can be pushed to the repository '{name}': {_reason(error)}. Give hub_token= a token that may "
            "write there (or log in: hf auth login), another hub_model_id, or leave out push_to_hub."
        ) from error
    if seen_by_all:
        raise ConfigError(
            f"The repository '{made}' should be private, but it is there already and everyone can see it; nothing was "
            "sent. Make it private in its settings on the hub, or give another hub_model_id."
        )
    return made


def push_to_hub(
    session: Session,
    /,
    commit_message: str | None = "End of training",
    blocking: bool = True,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
    **details: Any,
) -> Any:
    """Save model and card into the output folder, and upload them and nothing else.

    Args:
        session: whose model it is.
        commit_message: of the commit.
        blocking: whether to return only when it is done.
        token: `hub_token` when not given.
        revision: branch; `hub_revision` when not given.
        private: whether a repository that is made now is hidden from others; `hub_private_repo` when not given.
        details: for `create_model_card`.

    Returns:
        What huggingface_hub returns: the commit, or its future where it is not waited for; None on other processes.

    Raises:
        ConfigError: as `init_hf_repo`.
    """
    session.fire("push_begin")
    if not session.hooks.is_world_process_zero():
        session.hooks.save_model(_internal_call=True)
        return None
    if session.hub_model_id is None or private is not None:
        session.hooks.init_hf_repo(token=token, private=private)
    finish_pushes(session)
    details.setdefault("model_name", str(session.hub_model_id).split("/")[-1])
    output = Path(session.args.output_dir or ".")
    sent = empty_folder(output)
    session.hooks.save_model(str(sent), _internal_call=True)
    # links share what a later save would write over
    shutil.copytree(sent, output, copy_function=link if blocking else shutil.copy2, dirs_exist_ok=True)
    session.hooks.create_model_card(**details)
    link(output / CARD, sent / CARD)
    return upload(session, sent, commit_message, token=token, revision=revision, blocking=blocking)


def push_checkpoint(session: Session, checkpoint: Path, model_files: Iterable[Path]) -> None:
    """Upload what `hub_strategy` says after a save, in the background; left out while the last upload goes on.

    The model's files go to the top of the repository; with `checkpoint` the whole checkpoint also becomes
    `last-checkpoint`, with `all_checkpoints` every checkpoint keeps its name.

    Args:
        session: whose run it is.
        checkpoint: a folder that was just written.
        model_files: what in it is the model, relative to it.
    """
    args, strategy = session.args, session.args.hub_strategy
    if strategy == "end" or not session.hooks.is_world_process_zero():
        return
    if session.push_in_progress is not None and session.push_in_progress.is_done():
        finish_pushes(session)  # they may have failed
    if session.push_in_progress is not None and not args.hub_always_push:
        session.note(f"{checkpoint.name} is not pushed: the push before goes on (hub_always_push=True lets it wait).")
        return
    session.fire("push_begin")
    places: dict[str | None, Iterable[Path]] = {None: model_files}
    if strategy != "every_save":
        whole = [file for file in folder.files_in(checkpoint) if not any(part.startswith(".") for part in file.parts)]
        places["last-checkpoint" if strategy == "checkpoint" else checkpoint.name] = whole
    message = f"Training in progress, step {session.state.global_step}"
    try:
        if session.hub_model_id is None:
            session.hooks.init_hf_repo()
        for place, files in places.items():
            upload(session, linked(session, checkpoint, place, files), message, place=place, blocking=False)
    except (OSError, ConfigError) as error:
        session.note(f"{checkpoint.name} is not pushed: {_reason(error)}. Training goes on.")


def linked(session: Session, checkpoint: Path, place: str | None, files: Iterable[Path]) -> Path:
    """Return a new folder with files of a checkpoint; at the top of a repository there is a card, too."""
    output = Path(session.args.output_dir or ".")
    sent = empty_folder(output)
    for file in files:
        (sent / file).parent.mkdir(parents=True, exist_ok=True)
        link(checkpoint / file, sent / file)
    if place is None:
        if not (output / CARD).exists():
            session.hooks.create_model_card()
        link(output / CARD, sent / CARD)
    return sent


def upload(
    session: Session,
    sent: Path,
    message: str | None,
    *,
    place: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    blocking: bool = True,
) -> Any:
    """Upload a folder, which is deleted afterwards, to a place in the repository; return the commit, or its future.

    Those in the background go one after another, and are kept for `finish_pushes`.
    """
    from huggingface_hub import run_as_future, upload_folder
    from transformers.utils import PushInProgress

    ask_again()

    def send() -> Any:
        try:
            return upload_folder(
                repo_id=session.hub_model_id,
                folder_path=sent,
                path_in_repo=place,
                commit_message=message,
                token=session.args.hub_token if token is None else token,
                revision=session.args.hub_revision if revision is None else revision,
            )
        finally:  # a future's callbacks run after those who wait for it
            shutil.rmtree(sent, ignore_errors=True)

    if blocking:
        return send()
    job = run_as_future(send)
    before = session.push_in_progress.jobs if session.push_in_progress is not None else []
    session.push_in_progress = PushInProgress([*before, job])
    return job


def finish_pushes(session: Session) -> None:
    """Wait for the uploads that go on, and say which failed; those of a run are not worth its end."""
    pushes, session.push_in_progress = session.push_in_progress, None
    if pushes is None:
        return
    if not pushes.is_done():
        session.note(f"Waiting for the push to '{session.hub_model_id}'.")
    pushes.wait_until_done()
    for error in filter(None, (job.exception() for job in pushes.jobs)):
        session.note(
            f"A push to '{session.hub_model_id}' failed: {_reason(error)}. The files are in "
            f"'{session.args.output_dir}'; push_to_hub() sends the model again."
        )


@contextmanager
def without_bars(args: Any) -> Iterator[None]:
    """Keep the hub's progress bars, of uploads in the background, out of those of a run that pushes."""
    if not args.push_to_hub:
        yield
        return
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def empty_folder(output: Path) -> Path:
    """Return a new folder in the run's, of a name that is swept where a process dies."""
    output.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{layout.PREFIX}-push-", dir=output))


def link(source: str | Path, target: str | Path) -> None:
    """Put a file at a second place, in no space where the file system knows links; what lay there gives way."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _reason(error: BaseException) -> str:
    """Return in a line why the hub refused, without what only its operators need."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    told = {401: "the hub does not accept the token", 403: "the token may not write there"}.get(status or 0)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return told or lines[-1].rstrip(".")
