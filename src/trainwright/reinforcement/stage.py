"""Between the loader and the step: completions are written, judged and kept, and a step's micro-batches cut from them.

What happens is a function of (seed, epoch, place): which prompts, which random numbers, which rows of which generation
a step has. A generation is written to the disk before its first use, and read from there by a run that goes on; it
stays as long as a checkpoint may need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from trainwright import randomness
from trainwright.config.policy_options import GRPOOptions, PolicyOptions
from trainwright.data.loaders.rows import PaddingBatch
from trainwright.errors import CheckpointError, ConfigError, DataError
from trainwright.generation.rollouts import Completion, Rollouts
from trainwright.losses import fused_loss
from trainwright.losses.step_batch import StepBatch
from trainwright.objectives.policy import advantages
from trainwright.objectives.policy.objective import PolicyLoss
from trainwright.reinforcement import generation as store
from trainwright.reinforcement import samples
from trainwright.reinforcement.generation import Generation, joined, padded, sums_of
from trainwright.reinforcement.held_out import HeldOut, rewards_on
from trainwright.reinforcement.in_use import InUse
from trainwright.reinforcement.judging import judged, told, worth
from trainwright.reinforcement.metrics import metrics
from trainwright.reinforcement.schedule import Places, Schedule
from trainwright.reinforcement.symptoms import Symptoms
from trainwright.rewards.pool import Failure, Pool
from trainwright.saving.resume_source import Saved
from trainwright.session.run import Run
from trainwright.session.session import Session
from trainwright.session.signals import StopWaiting
from trainwright.training import shutdown

Scored = Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass
class Share:
    """What one rank has made of a generation: completions of some of its prompts."""

    places: list[int]
    completions: list[list[Completion]]
    rewards: torch.Tensor
    old: list[torch.Tensor] | None
    reference: list[torch.Tensor] | None
    failures: list[Failure]


@dataclass
class RolloutStage:
    """Writes completions when a step needs them; a part of the checkpoint.

    Attributes:
        session: of the Trainer.
        options: of the method.
        objective: measures log-probabilities.
        places: what the loader reads; its schedule says which completions a step has.
        prompts: tokens of every prompt, as rows with `prompt_ids`.
        rows: the same rows as they were read, for the rewards.
        rollouts: writes completions.
        pool: judges them.
        pad: token that fills rows up.
        multiple: what the width of micro-batches is a multiple of.
        seed: of what is drawn.
        held_out: prompts that evaluations measure the policy's rewards on, or None.
    """

    session: Session
    options: PolicyOptions
    objective: PolicyLoss
    places: Places
    prompts: Any
    rows: Any
    rollouts: Rollouts
    pool: Pool
    pad: int
    decode: Callable[[list[int]], str]
    multiple: int
    seed: int
    held_out: HeldOut | None = None
    measures = True
    symptoms: Symptoms = field(init=False)
    in_use: InUse = field(init=False)

    def __post_init__(self) -> None:
        self.in_use = InUse(self.session, self.places)
        self._held: dict[tuple[int, int], Generation] = {}
        self.symptoms = Symptoms(self.session.note)

    @property
    def schedule(self) -> Schedule:
        """Which completions a step has."""
        return self.places.schedule

    # ---- what a checkpoint keeps

    def state_dict(self) -> dict[str, Any]:
        """Return what the place in the data is counted in."""
        schedule = self.schedule
        order = {"sampling": schedule.order.sampling}
        return {"completions": schedule.completions, "group": schedule.group, "seed": self.seed, **order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin with no generation in memory; `begin` has looked at the rest."""
        self._held.clear()

    def begin(self, saved: Saved | None) -> None:
        """Have generations of the size of the run that is gone on with, before its loader is made.

        Raises:
            CheckpointError: they have another size now, not only since there are more ranks or fewer, or their
                prompts another order.
        """
        self._held.clear()
        args, options = self.session.args, self.options
        then = None if saved is None else saved.about.get("stage")
        ranks = self.session.strategy.data_shard.num_shards
        asked = size_of(options, args, ranks)
        if saved is not None and then is not None:
            before = size_of(options, args, int(saved.data.get("ranks", ranks)))
            if then["completions"] not in (asked, before) or then["group"] != options.num_generations:
                raise CheckpointError(
                    f"The checkpoint's generations have {then['completions']} completions, {then['group']} of a "
                    f"prompt, and now {asked} and {options.num_generations} are asked for. Put back num_generations, "
                    "per_device_train_batch_size and steps_per_generation, or begin anew."
                )
            asked, sampling = then["completions"], self.schedule.order.sampling
            if then.get("sampling", sampling) != sampling and not args.allow_batch_change:
                raise CheckpointError(
                    f"The order of the prompts is not the checkpoint's: {then['sampling']} -> {sampling}. Put "
                    "shuffle_dataset back, or consent with allow_batch_change=True: the run then goes on after the "
                    "same number of prompts, in the new order."
                )
        self.places.schedule = replace(self.schedule, completions=asked)

    # ---- the stage

    def work(self, run: Run, work: StepBatch) -> StepBatch:
        """Return what a step is trained on, in place of the places that the loader gave.

        Raises:
            DataError: completions could not be written, here or on another rank.
        """
        needed = self.schedule.needed(run.position, work.position)
        for key in [key for key in self._held if key[0] != run.epoch or key[1] < needed.start]:
            del self._held[key]
        for number in needed:
            if (run.epoch, number) not in self._held:
                self._held[run.epoch, number] = self._found(run, number) or self._made(run, number)
            if number * self.schedule.span >= run.position:
                self._tell(run, self._held[run.epoch, number])
        self._count(run, range(run.position, work.position))
        return replace(work, batches=[self._batch(run, chosen) for chosen in self._chosen(run, work.batches)])

    def _chosen(self, run: Run, batches: list[Any]) -> list[list[tuple[int, int]]]:
        """Return (generation, completion) of every row of some micro-batches; those of a prompt come together, which is
        computed once then, where that changes no loss."""
        plain = [batch.batch if isinstance(batch, PaddingBatch) else batch for batch in batches]
        places = [[self.schedule.of_place(place) for place in one["places"][:, 0].tolist()] for one in plain]
        numbers = {number for one in places for number, _ in one}
        orders = {number: self.schedule.shuffled(run.epoch, number) for number in numbers}
        found = [[(number, orders[number][place]) for number, place in one] for one in places]
        if any(isinstance(batch, PaddingBatch) for batch in batches) or not self.objective.adds_up:
            return found
        rows = iter(sorted(row for one in found for row in one))
        return [[next(rows) for _ in one] for one in found]

    def _batch(self, run: Run, chosen: list[tuple[int, int]]) -> Any:
        """Return some completions."""
        parts = []
        for number in dict.fromkeys(number for number, _ in chosen):
            some = [completion for other, completion in chosen if other == number]
            held = self._held[run.epoch, number]
            parts.append(held.batch(some, self.pad, self.options.mask_truncated_completions, self.multiple))
        return parts[0] if len(parts) == 1 else joined(parts, self.pad)

    def _count(self, run: Run, places: range) -> None:
        """Count the tokens of a step, of all ranks."""
        tokens, state = 0, self.session.state
        for number in self.schedule.needed(places.start, places.stop):
            held, order = self._held[run.epoch, number], self.schedule.shuffled(run.epoch, number)
            some = [
                order[place % self.schedule.completions] for place in places if place // self.schedule.span == number
            ]
            tokens += sum(len(held.prompts[n]) + len(held.completions[n]) for n in some)
        state.num_input_tokens_seen += tokens
        state.total_flos += 6 * tokens * self.session.non_embedding_parameters

    def evaluate(self, prefix: str) -> dict[str, Any]:
        """Return what the policy earns on the prompts that are held out; see `held_out.rewards_on`.

        Raises:
            ConfigError: there are none.
        """
        if self.held_out is None:
            raise ConfigError("There are no prompts to evaluate on: give data.validation.")
        return rewards_on(self.held_out, prefix)

    # ---- a generation

    def _found(self, run: Run, number: int) -> Generation | None:
        """Return a generation that was written before, by this run or by one that began with the same weights."""
        strategy = self.session.strategy
        path = strategy.on_main(lambda: store.lying(run, run.epoch, number))
        if path is None:
            if run.position > number * self.schedule.span:
                path = store.file_of(run.folder, run.epoch, number)
                raise CheckpointError(
                    f"The checkpoint is in the middle of the generation '{path}', which is gone, and keeps none. Put "
                    "it back beside the checkpoints, or resume from one before it."
                )
            return None
        found, about = strategy.on_main(lambda: store.read(path))
        now = self._about(run, number)
        alike = about.get("moved_by", now["moved_by"]) == now["moved_by"]
        mine = about["run"] == now["run"] and (alike or run.position > number * self.schedule.span)
        same = mine or about["weights"] == now["weights"]
        changed = store.changed(about, now)
        if mine and changed and run.position > number * self.schedule.span:
            raise CheckpointError(
                f"The checkpoint is in the middle of the generation '{path}', which was written and judged with "
                f"others: {'; '.join(changed)}. Put them back, or resume from a checkpoint at the end of a generation."
            )
        if not same or changed:  # of another run that has begun in this folder, or of this one by other steps
            return None
        generation: Generation = found
        return generation

    def _about(self, run: Run, number: int) -> dict[str, Any]:
        """Return what a generation depends on."""
        options = asdict(self.options)
        return {
            "run": run.run_id,
            "moved_by": repr([*(getattr(self.session.args, name) for name in store.MOVED_BY), options]),
            "weights": sums_of(self.session.model, self.session.strategy),
            "settings": {"seed": self.seed, **{name: options[name] for name in store.WRITTEN_BY}},
            "judged": {name: repr(options[name]) for name in store.JUDGED_BY if name in options},
            "rows": self.schedule.rows(run.epoch, number),
        }

    def close(self) -> None:
        """End the processes of the rewards, and forget what is on the disk."""
        self.pool.close()
        self._held.clear()

    def _made(self, run: Run, number: int) -> Generation:
        """Write completions, judge them, and keep that on the disk; all ranks together."""
        strategy, shard = self.session.strategy, self.session.strategy.data_shard
        rows = self.schedule.rows(run.epoch, number)
        mine = list(range(len(rows)))[shard.index :: shard.num_shards]
        share, failure = None, None
        self._prove(rows)
        try:
            with self._whole(run), randomness.seeded(self.seed, run.epoch, number, shard.index):
                share = self._share(run, number, rows, mine)
        except StopWaiting:
            pass
        except Exception as error:
            failure = error
        told_by = strategy.gather((run.signals.received or 0, None if failure is None else repr(failure)))
        if strategy.is_distributed and any(stop for stop, _ in told_by):
            run.agreed_stop = max(stop for stop, _ in told_by)
        if run.stop is not None:
            shutdown.leave(run)
        if failure is not None:
            raise failure
        failed = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(told_by) if text]
        if failed:
            raise DataError(f"Writing completions failed on {failed[0]}")
        made = self._joined(run, number, rows, strategy.gather_shards(share))
        path, about = store.file_of(run.folder, run.epoch, number), self._about(run, number)
        strategy.on_main(lambda: store.write(made, path, about))
        strategy.on_main(lambda: samples.write(run.folder, made, self.decode, self.options.num_generations))
        strategy.on_main(lambda: store.sweep(run, self.schedule.span))
        return made

    def _share(self, run: Run, number: int, rows: list[int], mine: list[int]) -> Share:
        """Return this rank's part of a generation: completions of the prompts at some places."""
        session, options = self.session, self.options
        prompts = [self.prompts[rows[place]]["prompt_ids"] for place in mine]
        keys = [(self.seed, run.epoch, number, place) for place in mine]
        with session.hooks.compute_loss_context_manager():
            some = self.rollouts.complete([one.tolist() for one in prompts], keys, options.num_generations)
        wide = [prompt for prompt in prompts for _ in range(options.num_generations)]
        flat = [one.ids for completions in some for one in completions]
        old = self._scored(wide, flat, self.objective.old_log_probs) if self._needs_old(run) else None
        needs_reference = self.options.beta != 0
        reference = self._scored(wide, flat, self.objective.reference_log_probs) if needs_reference else None
        rewards, failures = torch.empty(0), list[Failure]()
        if session.strategy.leads_shard:  # last of all, for where this fails others would wait for the model
            rewards, failures = judged(self.pool, [self.rows[rows[place]] for place in mine], some, self.decode)
        for sentence in told(failures, [rows[mine[one.row // options.num_generations]] for one in failures]):
            session.note(sentence)
        return Share(mine, some, rewards, old, reference, failures)

    @contextmanager
    def _whole(self, run: Run) -> Iterator[None]:
        """Have the model and its reference whole in this process, which then may fail or stop where others go on. Where
        they compute layers together no signal stops one, for the others would wait in the midst of a layer."""
        strategy, reference = self.session.strategy, self.objective.reference
        stopping = run.signals.waiting() if strategy.computes_alone else nullcontext()
        with (
            strategy.whole(self.session.model),
            nullcontext() if reference is None else strategy.whole(reference),
            stopping,
        ):
            yield

    def _prove(self, rows: list[int]) -> None:
        """Prove the fused loss before it measures completions, where all processes have to do so together: with the
        first prompts, which they all have."""
        session = self.session
        fused = self.objective.fused is not None or self.objective.fused_reference is not None
        if session.strategy.shards_state and fused:
            some = [self.prompts[row]["prompt_ids"] for row in rows[: session.args.per_device_train_batch_size]]
            batch = padded(some, some, self.pad, self.multiple)
            fused_loss.prove(session, self.objective.model_inputs(batch))

    def _needs_old(self, run: Run) -> bool:
        """Whether a generation is trained on by a policy that has moved on: not where every step has whole ones."""
        corrects = isinstance(self.options, GRPOOptions) and self.options.sampler_correction is not None
        return corrects or run.loader.step_size % self.schedule.span != 0

    def _scored(self, prompts: list[torch.Tensor], completions: list[torch.Tensor], of: Scored) -> list[torch.Tensor]:
        """Return log-probabilities of the tokens of completions, on the host."""
        session, size = self.session, self.session.args.per_device_train_batch_size
        found: list[torch.Tensor] = []
        for start in range(0, len(prompts), size):
            batch = padded(prompts[start : start + size], completions[start : start + size], self.pad, self.multiple)
            fused_loss.before_loss(session, batch)
            with session.hooks.compute_loss_context_manager():
                scores = of(session.model, session.strategy.to_device(batch)).cpu()
            for row, prompt, completion in zip(scores, prompts[start:], completions[start:], strict=False):
                found.append(row[len(prompt) - 1 : len(prompt) - 1 + len(completion)].clone())
        return found

    def _joined(self, run: Run, number: int, rows: list[int], shares: list[Share]) -> Generation:
        """Return the generation that the parts of all ranks make."""
        group, count = self.options.num_generations, self.schedule.completions
        places = [(share, n) for share in shares for n in range(len(share.places))]
        places.sort(key=lambda pair: pair[0].places[pair[1]])
        each = [(share, n * group + k) for share, n in places for k in range(group)]
        flat = [share.completions[n // group][n % group] for share, n in each]
        rewards = torch.stack([share.rewards[n] for share, n in each])
        totals = advantages.weighted(rewards, self.options.reward_weights)
        made = Generation(
            epoch=run.epoch,
            number=number,
            step=self.session.state.global_step,
            functions=[reward.name for reward in self.pool.rewards],
            rows=rows,
            prompts=[self.prompts[rows[n // group]]["prompt_ids"] for n in range(count)],
            completions=[one.ids for one in flat],
            finished=torch.tensor([one.finished for one in flat]),
            sampler=[one.log_probs for one in flat],
            rewards=rewards,
            totals=totals,
            advantages=totals,
            old=None if shares[0].old is None else [(share.old or [])[n] for share, n in each],
            reference=None if shares[0].reference is None else [(share.reference or [])[n] for share, n in each],
        )
        made.advantages = worth(made, self.options)
        return made

    def _tell(self, run: Run, generation: Generation) -> None:
        """Log a generation's numbers at its first use, and what they are a sign of."""
        found = metrics(generation, self.options.num_generations)
        for name, value in found.items():
            self.session.hooks.record(name, value)
        options = self.options
        self.symptoms.look(found, options.max_completion_length, options.mask_truncated_completions)


def size_of(options: PolicyOptions, args: Any, ranks: int) -> int:
    """Return the completions of a generation, over all ranks."""
    if options.generation_batch_size is not None:
        return options.generation_batch_size
    steps = options.steps_per_generation or args.gradient_accumulation_steps
    return int(args.train_batch_size * steps * ranks)
