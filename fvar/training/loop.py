"""The training loop of tokenizers and transformers.

    train(task, run, config)

runs `config.steps` steps of the task in its run directory. Killed at any moment and called again, it continues from the
last checkpoint and, on a CPU, computes bit for bit what it would have computed without the interruption: the data order
and all random numbers follow from (seed, step, rank or image), everything else is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any, Generic

import torch
from torch import Tensor

from fvar.config import TrainConfig
from fvar.errors import StageFailed, UserError
from fvar.machine import distributed, signals
from fvar.machine.seeds import seed_for
from fvar.rundir import RunDir
from fvar.training import optim, sharding
from fvar.training.averaging import AveragedWeights
from fvar.training.checkpoint import Checkpoint, Checkpoints, DamagedError
from fvar.training.data_feed import DataFeed
from fvar.training.guards import NonFiniteGuard, SpikeAlarm
from fvar.training.journal import Journal, PhaseRecord, reads_at_once
from fvar.training.phase import Phase
from fvar.training.probes import Probes
from fvar.training.task import Batch, Task
from fvar.training.throughput import Throughput

STATUS_SECONDS = 1.0  # between two replacements of the status file, at least


def train(task: Task[Batch], run: RunDir, config: TrainConfig) -> None:
    """Train `task` to its last step, or continue where an earlier attempt stopped.

    Writes metrics, status and checkpoints of `run` (rank 0 only). With `config.ema` the task's parameters are their
    averages afterwards, with `config.deploy` "best" those of the best evaluation. Raises `Interrupted` after a
    checkpoint when asked to stop by a signal, `StageFailed` after too many non-finite steps, `OSError` when the disk is
    full.
    """
    ranks = distributed.world_size()
    if config.batch_size < ranks * run.runtime.accumulate:
        raise UserError(
            f"train.batch_size {config.batch_size} cannot be cut into {ranks} ranks x {run.runtime.accumulate} "
            "micro-batches; use fewer ranks or a smaller runtime.accumulate"
        )
    trainer = Trainer(task, run, config)
    try:
        with signals.deferred() as stop:
            trainer.run_to_end(stop)
    finally:
        trainer.close()


class Trainer(Generic[Batch]):
    """The state of one training and its steps; see `train`."""

    def __init__(self, task: Task[Batch], run: RunDir, config: TrainConfig) -> None:
        self.task, self.run, self.config = task, run, config
        self.writes = distributed.rank() == 0
        self.probes = Probes(task.probe, run, task.device) if task.probe and self.writes else None
        if run.runtime.compile:
            task.compile()
        sharded = distributed.world_size() > 1 and run.runtime.parallel == "fsdp"
        shards = sharding.shard(task) if sharded else []  # before the optimisers: it replaces the parameters
        self.phases = {name: Phase(name, task, config, shards) for name in task.phase_names}
        self.averaged: AveragedWeights | None = None
        if config.ema:
            named = {f"{p.name}.{name}": value for p in self.phases.values() for name, value in p.named}
            self.averaged = AveragedWeights(named, config.ema)
        self.checkpoints = Checkpoints(run.path / "checkpoints", run.runtime.keep_checkpoints)
        self.feed = DataFeed(task, config, run.runtime.accumulate)
        guard = NonFiniteGuard(run.path, run.runtime.bad_steps, writes=self.writes)
        alarm = SpikeAlarm(run.runtime.spike_sigmas if self.writes else 0.0)
        self.journal = Journal(guard, alarm, at_once=reads_at_once(task.device))
        self.speed = Throughput(task.device, task.tokens_per_item, task.flops_per_item, distributed.world_size())
        self.saved_at = self.told_at = time.monotonic()
        self.best: tuple[int, float] | None = None  # steps made at the best evaluation, and its held-out loss
        self.rate: float | None = None  # images/s

    def close(self) -> None:
        """End the threads."""
        self.feed.close()
        self.checkpoints.close()
        if self.probes:
            self.probes.close()

    def run_to_end(self, stop: signals.StopRequest) -> None:
        """Make the remaining steps."""
        first = self._restore()
        if self.writes:
            self.run.forget_metrics_after(first)
        if self.probes:
            self.probes.resume(first)
        self._tell(first, force=True)
        self.speed.read()
        for step in range(first, self.config.steps):
            self._step(step)
            done = step + 1
            if self._at(done, self.run.runtime.log_every) or done == 1:
                self._log(done)
            if self._at(done, self.config.eval_every):
                self._evaluate(done)
            self._probe(done)
            self._tell(done)
            self._checkpoint(done, stop)
        self.checkpoints.join()
        if self.probes:
            self.probes.finish(interrupted=lambda: bool(stop))
        if self.config.deploy == "best":
            self._return_to_best()
        if self.averaged:
            self.averaged.adopt()

    # ---------------------------------------------------------------------------------------------------------- step

    def _step(self, step: int) -> None:
        """One step of every phase; counts as done even where an update is left out as not finite."""
        stream = 0 if self.task.random_by_image else distributed.rank()
        torch.manual_seed(seed_for(self.config.seed, "step", step, stream))
        data = self.feed.take(step)
        lr = optim.peak_lr(self.config) * optim.lr_factor(self.config, step)
        records = []
        for name in self.task.phases(step):
            phase = self.phases[name]
            for other in self.phases.values():  # one phase's backward may reach the parameters of another
                other.optimiser.zero_grad(set_to_none=True)
            loss, metrics = phase.backward(data.micro_batches, step)
            norms = phase.clip()
            finite = phase.finite(loss, norms)
            phase.apply(lr, finite)
            prefix = "" if name == self.task.phase_names[0] else f"{name}/"
            records.append(PhaseRecord(name, prefix, loss, metrics, norms, finite))
        self.task.after_step(step, [micro.batch for micro in data.micro_batches])
        if self.averaged:
            self.averaged.update(torch.stack([record.finite for record in records]).all())
        self.journal.note(step, lr, data.items, records)
        self.speed.count(self.config.batch_size, data.waited)

    # ------------------------------------------------------------------------------------------------------- records

    def _at(self, done: int, every: int) -> bool:
        return done % max(every, 1) == 0 or done == self.config.steps

    def _log(self, done: int) -> None:
        """Record the averages since the last record. Speed goes to a split of its own: it never repeats exactly."""
        averages = self.journal.averages()
        speed = self.speed.read()
        self.rate = speed["images_per_second"]
        if self.writes:
            self.run.log_metrics(done, averages)
            self.run.log_metrics(done, speed, split="speed")

    def _evaluate(self, done: int) -> None:
        """Every rank evaluates the same images: sharded networks cannot be run by one alone."""
        started = time.perf_counter()
        torch.manual_seed(seed_for(self.config.seed, "evaluation"))
        phase = self.phases[self.task.phase_names[0]]
        with torch.no_grad(), phase.autocast(), self._deployed():
            values = self.task.evaluate(done)
        loss = self.task.heldout_loss(values)
        if loss is not None and math.isfinite(loss) and (self.best is None or loss < self.best[1]):
            self.best = (done, loss)
        if values and self.writes:
            self.run.log_metrics(done, values, split="heldout")
        self.speed.pause(time.perf_counter() - started)

    def _probe(self, done: int) -> None:
        """Take a snapshot for the probe where one is due, and log the measurements that have ended."""
        if self.task.probe and done % self.task.probe.every == 0:
            with self._deployed():
                weights = sharding.whole(self.task.state_modules()[self.task.probe.module].state_dict())
                if self.probes:
                    self.probes.take(done, weights)
        if self.probes:
            self.probes.record()

    def _deployed(self) -> contextlib.AbstractContextManager[None]:
        """Within it the parameters are those that would be deployed: the averages, where there are any."""
        return self.averaged.applied() if self.averaged else contextlib.nullcontext()

    def _tell(self, done: int, *, force: bool = False) -> None:
        """Refresh the status and print a line, at most once a second."""
        now = time.monotonic()
        if not self.writes or (now - self.told_at < STATUS_SECONDS and not force and done < self.config.steps):
            return
        self.told_at = now
        eta = (self.config.steps - done) * self.config.batch_size / self.rate if self.rate else None
        self.run.update(step=done, steps=self.config.steps, loss=self.journal.latest, rate=self.rate, eta=eta)
        loss = f"  loss {self.journal.latest:.4f}" if self.journal.latest is not None else ""
        speed = f"  {self.rate:.1f} images/s" if self.rate else ""
        print(f"step {done}/{self.config.steps}{loss}{speed}", flush=True)

    # --------------------------------------------------------------------------------------------------- checkpoints

    def _checkpoint(self, done: int, stop: signals.StopRequest) -> None:
        """Save when steps, time or a best evaluation say so; when asked to stop, save and raise `Stopped`."""
        runtime, last = self.run.runtime, done == self.config.steps
        by_time = self.writes and 0 < runtime.checkpoint_seconds <= time.monotonic() - self.saved_at
        by_merit = self.writes and self.best is not None and self.best[0] == done
        stopping, due = distributed.any_rank(bool(stop), by_time or by_merit)
        by_step = runtime.checkpoint_steps > 0 and done % runtime.checkpoint_steps == 0
        if due or by_step or stopping or last:
            self.saved_at = time.monotonic()
            tensors = self._tensors()
            if self.writes:
                self.checkpoints.save(done, tensors, self._plain_state(), self.best[0] if self.best else None)
        if stopping and not last:
            self.checkpoints.join()
            raise signals.Stopped(stop.number or signals.STOPPING[0], f"checkpoint {done} written")

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        groups: dict[str, Mapping[str, Tensor]] = {}
        for name, module in self.task.state_modules().items():
            groups[f"module-{name}"] = module.state_dict()
        for name, phase in self.phases.items():
            groups[f"optimiser-{name}"] = optim.pack(phase.optimiser, phase.named)
        if self.averaged:
            groups["averaged"] = self.averaged.averages
        return {group: sharding.whole(tensors) for group, tensors in groups.items()}

    def _plain_state(self) -> dict[str, Any]:
        return {
            "scalers": {name: phase.scaler.state_dict() for name, phase in self.phases.items()},
            "best": self.best,
            **self.journal.state(),
        }

    def _restore(self) -> int:
        """Load the newest good checkpoint; the number of steps already made."""
        with distributed.first_rank_first():  # it sets damaged ones aside before the others look
            checkpoint, note = self.checkpoints.load()
            if note:
                print(f"warning: {note}", flush=True)
                self.run.update(note=note)
        if checkpoint is None:
            return 0
        self._restore_weights(checkpoint)
        for name, phase in self.phases.items():
            optim.unpack(phase.optimiser, phase.named, checkpoint.tensors[f"optimiser-{name}"])
            phase.scaler.load_state_dict(checkpoint.state["scalers"][name])
        self.journal.restore(checkpoint.state)
        self.best = tuple(checkpoint.state["best"]) if checkpoint.state["best"] else None
        print(f"continued from checkpoint {checkpoint.step}", flush=True)
        return checkpoint.step

    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        for name, module in self.task.state_modules().items():
            sharding.load(module, checkpoint.tensors[f"module-{name}"])
        if self.averaged:
            self.averaged.load(checkpoint.tensors["averaged"])

    def _return_to_best(self) -> None:
        """Put the weights of the best evaluation back."""
        distributed.barrier()  # the first rank has written the last checkpoint
        if self.best is None or self.best[0] == self.config.steps:
            return
        step, loss = self.best
        try:
            self._restore_weights(self.checkpoints.read(step))
        except DamagedError as error:
            raise StageFailed(
                f"the best checkpoint, of step {step}, is damaged ({error}); delete {self.checkpoints.folder} and run "
                "it again, or set train.deploy to last"
            ) from error
        print(f"returned to the best checkpoint: step {step}, held-out loss {loss:.4f}", flush=True)
