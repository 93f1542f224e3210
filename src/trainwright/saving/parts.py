"""The parts of a run that its checkpoints keep, and where: what begins or goes on with training is in this list.

They are given back in this order, the streams of random numbers after all that might draw from them. What is in JSON is
small; what every rank keeps for itself goes to the first one through the hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright import randomness
from trainwright.callbacks import states
from trainwright.checkpoint import layout, parts, plain
from trainwright.checkpoint.parts import Exchange, Part
from trainwright.errors import ConfigError, UnsavableError
from trainwright.losses import fused_loss, units
from trainwright.models import adapters
from trainwright.saving import extra_parameters, optimizer_state
from trainwright.saving.resume_source import Saved
from trainwright.session import ema
from trainwright.session.run import Run
from trainwright.session.session import Session, Stage

OF_CALLBACKS = ("counters", "callbacks")


def of_run(run: Run, saved: Saved | None) -> dict[str, Part]:
    """Return what the checkpoints of a run keep, by name; `saved` is the one that it goes on from."""
    session, place = run.session, None if saved is None else saved.folder
    return {
        **of_callbacks(run),
        "unit": Part(
            state=Exchange(lambda: units.state_of(session.objective), lambda state: units.restore(session, state)),
            title="What the loss is a mean over",
            file=layout.RUN,
            key=("unit",),
            with_model=True,
        ),
        "ways": Part(
            state=Exchange(lambda: fused_loss.given_up(session), lambda before: fused_loss.give_up(session, before)),
            title="What was not proven of the loss",
            file=layout.RUN,
            key=("ways",),
            lacking=lambda alone: None,
        ),
        "others": extra_parameters.part(session, place),
        **optimizer_state.parts(run, saved),
        "scaler": Part(state=session.precision, title="The state of the loss scaler", file=layout.SCALER),
        "average": of_average(session),
        "adapters": Part(
            state=Exchange(lambda: adapters.active(session.model), lambda then: activate(run, saved, then)),
            title="The adapters that are switched on",
            file=layout.RUN,
            key=("adapters",),
            with_model=True,
        ),
        "data": Part(state=run.loader, title="The state of the training data", on_all=True, undone="step"),
        "buffers": Part(
            state=Exchange(
                run.health.buffers.state_dict, lambda state: run.health.buffers.load_state_dict(state, session.note)
            ),
            title="The buffers that are not saved with the model",
            key=("buffers",),
            on_all=True,
        ),
        **of_reference(session.synced_reference, session.note, place),
        **dict(parts.of_users(session.checkpoint_parts, place, session.note)),
        **of_randomness(run),
        **of_logs(run),
        **of_stage(session.stage),
    }


def renew(run: Run) -> None:
    """Take the user's parts as they are now: a script may give, replace or drop one while the run trains.

    Raises:
        UnsavableError: one given meanwhile is no part.
    """
    session = run.session
    try:
        parts.check_users(session.checkpoint_parts)
    except ConfigError as error:
        raise UnsavableError(str(error)) from None
    ours = {name: part for name, part in run.parts.items() if not name.startswith(f"{parts.OF_USERS}.")}
    run.parts = ours | dict(parts.of_users(session.checkpoint_parts, run.origin, session.note))


def of_callbacks(run: Run) -> dict[str, Part]:
    """Return what callbacks keep: by `state()`, as transformers lays it out, and by `state_dict()`."""
    session, note = run.session, run.note_once
    heard = session.callback_handler.callbacks

    def counted() -> Any:
        found = states.collect([*heard, session.control], note)
        session.state.stateful_callbacks = found
        return states.savable(found, plain.as_json, note)

    def kept() -> Any:
        states.tell_of_order(heard, note)
        return states.savable_dicts(states.collect_dicts(heard, note), plain.plain, note)

    def go_on(state: Any) -> None:
        states.tell_of_order(heard, note)
        states.restore_dicts(heard, state, session.note)

    return {
        "counters": Part(
            state=Exchange(counted, lambda state: states.restore(heard, state, session.note)),
            title="The state of the callbacks",
            file=layout.STATE,
            key=("stateful_callbacks",),
            with_model=True,
            undone="evaluation",
        ),
        "callbacks": Part(
            state=Exchange(kept, go_on),
            title="The state of the callbacks",
            key=("callbacks",),
            on_all=True,
            undone="evaluation",
        ),
    }


def of_average(session: Session) -> Part:
    """Return what a checkpoint keeps of the average; one without an average goes on from the last step's weights."""

    def kept() -> dict[str, Any] | None:
        return None if session.ema is None else session.ema.state_dict(session.model)

    def go_on(state: dict[str, Any]) -> None:
        ema.put(session.model, state.get("last", {}))
        if session.ema is not None:
            session.ema.load_state_dict(state, session.model)

    parameters = dict(session.model.named_parameters())
    return Part(
        state=Exchange(kept, go_on),
        title="The moving average",
        file=layout.AVERAGE,
        with_model=True,
        anew="" if session.ema is None else "moving average",
        like=lambda place: parameters.get(place[-1]),
    )


def of_reference(reference: nn.Module | None, note: Callable[[str], None], place: Path | None) -> dict[str, Part]:
    """Return what a checkpoint keeps of a reference that follows the model; `place` is the one that is gone on from."""
    if reference is None:
        return {}
    parameters = dict(reference.named_parameters())

    @torch.no_grad()
    def go_on(state: dict[str, torch.Tensor]) -> None:
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    def tell(alone: bool) -> None:
        if not alone:  # else it is said with all others
            note(f"'{place}' keeps no reference that follows the model; it begins anew.")

    return {
        "reference": Part(
            state=Exchange(lambda: {name: p.detach() for name, p in parameters.items()}, go_on),
            title="The reference that follows the model",
            file=layout.REFERENCE,
            anew="reference",
            lacking=tell,
            like=lambda place: parameters.get(place[-1]),
        )
    }


def average_in(session: Session, place: Path) -> dict[str, Any]:
    """Return what a checkpoint keeps of its average; nothing where it has none."""
    state = parts.Opened(place, session.strategy).state_of(of_average(session))
    return {} if state is parts.ABSENT else state


def of_randomness(run: Run) -> dict[str, Part]:
    """Return the streams of random numbers, and the generators that the user's own parts hold."""

    def draw_on(state: Any) -> None:
        unmatched = randomness.restore_into(run.generators, state)
        if unmatched:
            run.session.note(
                f"Of the random generators {', '.join(unmatched)} the checkpoint has some and this run has others; "
                "they begin anew. A generator goes on where it is made before training."
            )

    return {
        "streams": Part(
            state=run.streams,
            title="The streams of random numbers",
            as_it_is=True,
            undone="step",
        ),
        "generators": Part(
            state=Exchange(lambda: randomness.states_of(run.generators), draw_on),
            title="The state of a random generator",
            key=("own",),
            undone="step",
            lacking=lambda alone: None if alone else draw_on({}),
        ),
    }


def of_logs(run: Run) -> dict[str, Part]:
    """Return what is known of the steps behind: how they went, and what of them is not logged yet."""
    session, device = run.session, run.session.strategy.device

    def latest() -> dict[str, Any]:
        rate = run.learning_rate
        return {"grad_norm": run.grad_norm, "learning_rate": rate if rate is None else float(rate)}

    def go_on(state: dict[str, Any]) -> None:
        run.grad_norm, run.learning_rate = state["grad_norm"], state["learning_rate"]

    return {
        "health": Part(state=run.health, title="The health of the run", key=("health",)),
        "latest": Part(state=Exchange(latest, go_on), title="The numbers of the last step", key=("latest",)),
        "losses": Part(
            state=Exchange(run.meter.state_dict, lambda state: run.meter.load_state_dict(state, device)),
            title="The losses that are not logged yet",
            key=("averages", "loss"),
        ),
        "records": Part(
            state=Exchange(
                lambda: session.records.state_dict(), lambda state: session.records.load_state_dict(state, device)
            ),
            title="The numbers recorded beside the loss",
            key=("averages", "records"),
            undone="step",
        ),
    }


def of_stage(stage: Stage | None) -> dict[str, Part]:
    """Return what stands between the loader and the step, where something does."""
    if stage is None:
        return {}
    found = {"stage": Part(state=stage, title="The state of the stage", file=layout.RUN, key=("stage",))}
    if stage.in_use is not None:
        title = "What the stage has in use"
        found["in use"] = Part(state=stage.in_use, title=title, key=("in_use",), on_all=True)
    return found


def activate(run: Run, saved: Saved | None, then: list[str]) -> None:
    """Switch to the adapters that were active, unless the script begins with others than it did before."""
    began = None if saved is None else saved.about.get("made_with", {}).get("adapters")
    if then and began == run.made_with["adapters"] != then:
        adapters.activate(run.session.model, then)
