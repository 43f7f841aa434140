"""Config -> parts -> `train`: the only place where the parts are put together."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from disttrain.checkpoint import CheckpointValues, CheckpointWriter, Snapshot, find_checkpoint, load_checkpoint
from disttrain.checkpoint.state import plain_values, rank_shard, restore
from disttrain.comm.base import Comm
from disttrain.comm.build import build_comm
from disttrain.comm.control_plane import ControlPlane
from disttrain.comm.device import check_own_gpu, pick_device
from disttrain.comm.overlap import ExchangeTimes
from disttrain.comm.rank_session import RankSession
from disttrain.data.pipeline import EvalPipeline
from disttrain.errors import DivergedError, Preempted
from disttrain.files import write_json
from disttrain.launch.env import RankEnv
from disttrain.log import log
from disttrain.loop import Position, train
from disttrain.models.model_dir import save_model_dir, weights_sha256
from disttrain.optim.loss import build_loss
from disttrain.run_dir import CHECKPOINTS, LOGS, MODEL, PROFILE, RESULT, claim_run_dir, load_result
from disttrain.telemetry.device_phases import phases_on
from disttrain.telemetry.trackers import RunInfo, open_trackers
from disttrain.training.arithmetic import fixed_arithmetic
from disttrain.training.assemble import backward_once, build_parts, describe, place_model, total_steps_of
from disttrain.training.checkpointing import Checkpointing
from disttrain.training.evaluate import Evaluation, EvaluationInterrupted, evaluate
from disttrain.training.golden import record_golden
from disttrain.training.hooks import RunHooks
from disttrain.training.integrity import WeightCheck
from disttrain.training.machine_watch import MachineWatch
from disttrain.training.manifest import record_start, was_started_by
from disttrain.training.one_worker import measure_one_worker, scaling_figures
from disttrain.training.places import read_places, render_places, tell_place
from disttrain.training.preemption import StopAgreement, StopRequest
from disttrain.training.prepare import Prepared, Request, prepare
from disttrain.training.profile import StepProfile
from disttrain.training.run_record import RunRecord
from disttrain.training.shared_folder import check_shared
from disttrain.training.training_log import TrainingLog
from disttrain.training.validation import Validation


def run_training(request: Request, session: RankSession) -> dict[str, Any]:
    """Train on this rank, together with the others; every rank returns the content of `result.json`."""
    config, run_dir = request.config, request.run_dir
    env, control_plane = session.env, session.control_plane
    with contextlib.ExitStack() as stack:
        stack.enter_context(fixed_arithmetic(config))
        # Ranks that their agent starts again go on with what they have begun, also where it was asked to begin anew.
        is_restart = bool(control_plane.broadcast("is_restart", "yes" if was_started_by(run_dir, env.job_id) else None))
        given_checkpoint = Path(request.resume) if request.resume not in ("auto", "never") else None
        if is_restart:
            request = dataclasses.replace(request, resume="auto")
        device = control_plane.run_on_all("device", lambda: pick_device(config.train.device, env))
        check_own_gpu(control_plane, device)
        prepared = control_plane.run_on_all("prepare", lambda: prepare(request, env, device), first=env.local_rank == 0)
        check_shared(control_plane, run_dir)
        finished = control_plane.run_on_all(
            "result", lambda: load_result(run_dir) if request.resume != "never" else None
        )
        if finished is not None:
            log.info("%s has finished already; --resume never trains it anew.", run_dir)
            return finished
        snapshot = _newest_snapshot(run_dir, env, control_plane) if request.resume == "auto" else None
        if snapshot is None and given_checkpoint is not None:
            is_verified = not env.is_rank_zero  # rank zero does so for all
            snapshot = control_plane.run_on_all("load", lambda: load_checkpoint(given_checkpoint, is_verified))
        tell_place(control_plane.store, env.rank, device)
        owner = control_plane.run_on_all(
            "claim", lambda: claim_run_dir(run_dir, config, request.resume, env.job_id) if env.is_rank_zero else None
        )
        stop_request = StopRequest()
        if owner is not None:
            stack.callback(owner.close)
        session.logging.open_file(run_dir / LOGS / f"rank_{env.rank}.log")
        control_plane.watch(config.comm.timeout_s, run_dir / LOGS)
        stack.enter_context(stop_request.listening())
        comm = stack.enter_context(closing(build_comm(config, env, control_plane, device)))
        run = _Run(request, env, prepared, comm, control_plane, stop_request)
        saved = run.restore(snapshot) if snapshot is not None else None
        del snapshot  # its tensors are mapped from files that later checkpoints replace
        return run.train(saved)


def _newest_snapshot(run_dir: Path, env: RankEnv, control_plane: ControlPlane, stage: str = "start") -> Snapshot | None:
    """Rank zero verifies checkpoints until it has found the newest whole one, and all load that."""
    folder = run_dir / CHECKPOINTS
    found = control_plane.run_on_all(f"{stage}/find", lambda: find_checkpoint(folder) if env.is_rank_zero else None)
    name = control_plane.broadcast(f"{stage}/checkpoint", str(found) if found else None)
    load = (lambda: load_checkpoint(Path(name), verified=True)) if name else (lambda: None)
    return control_plane.run_on_all(f"{stage}/load", load)


class _Run:
    """One rank's training, put together. What it does is in `train`; the rest is what the hooks ask for."""

    def __init__(
        self,
        request: Request,
        env: RankEnv,
        prepared: Prepared,
        comm: Comm,
        control_plane: ControlPlane,
        stop_request: StopRequest,
    ) -> None:
        self.request, self.env, self.prepared, self.comm = request, env, prepared, comm
        self.control_plane = control_plane
        self.config, self.run_dir, self.stop_request = request.config, request.run_dir, stop_request
        self.position = Position()
        self.total_steps = total_steps_of(self.config, prepared)
        self.model = place_model(self.config, prepared.model, comm)
        self.parts, self.on_nonfinite = build_parts(request, prepared, comm, control_plane.phases, self.model)
        self.on_nonfinite.roll_back = self._roll_back
        self.weight_check = WeightCheck(self.model, comm, self.config.train.check_weights_every_steps)
        self.writer = CheckpointWriter(
            self.run_dir / CHECKPOINTS,
            control_plane.connect(),
            env.rank,
            env.world_size,
            self.config.checkpoint,
        )
        control_plane.phases.on_device = phases_on(comm.device)
        log.info("%s", describe(self.config, prepared, env, self.model, comm.device))
        if env.is_rank_zero:
            log.info("%s", render_places(read_places(control_plane.store, env.world_size)))
        comm.fix_reduction_order(self.parts.model, lambda: backward_once(self.parts))
        self.one_worker = measure_one_worker(self.config, self.parts, self.model, control_plane)

    def restore(self, snapshot: Snapshot) -> CheckpointValues:
        """Go on from a checkpoint; returns its plain values."""
        restore(self.parts, self.model, self.position, snapshot)
        self.on_nonfinite.used = snapshot.values.nonfinite
        log.info("goes on from step %d of %d", self.position.step, self.total_steps)
        return snapshot.values

    def train(self, saved: CheckpointValues | None) -> dict[str, Any]:
        """From the values of a checkpoint, or the beginning, to the content of `result.json`. Raises DisttrainError."""
        env, position = self.env, self.position
        first_step = position.step
        starts = (
            record_start(self.run_dir, self.prepared, env, self.comm.device, first_step) if env.is_rank_zero else []
        )
        machine, record = self._open_record(first_step)
        hooks = self._build_hooks(record, first_step)
        state, result = "failed", dict[str, Any]()
        try:
            began = time.monotonic()
            if saved is not None:
                self.weight_check(position.step)
                hooks.resume(position, saved)
            train(self.parts, position, self.total_steps, hooks)
            wall_s = time.monotonic() - began
            try:
                if position.step < self.total_steps:
                    raise EvaluationInterrupted
                energy_j = machine.energy_j(self.comm)
                has_test = self.config.train.test_at_end and len(self.prepared.dataset.splits["test"])
                test = self._evaluate("test") if has_test else None
            except EvaluationInterrupted:
                state = "stopped"
                raise Preempted(self._stopped()) from None
            steps_ms = hooks.training_log.durations.overall()
            result = self._result(test, wall_s, energy_j, steps_ms, first_step, restarts=max(0, len(starts) - 1))
            state = "finished"
        except DivergedError:
            self.writer.wait()  # the checkpoint that is on its way is one to go on from
            raise
        finally:
            if self.parts.digests is not None:
                self.parts.digests.close()
            hooks.profile.close()
            machine.close()
            record.close(state, position.step, result)
            self.writer.close()
        self.comm.barrier()
        record.join()
        return result

    def _open_record(self, first_step: int) -> tuple[MachineWatch, RunRecord]:
        env, control_plane, config = self.env, self.control_plane, self.config
        machine = MachineWatch(
            env, control_plane.connect(), control_plane.phases, self.comm.device, config.telemetry.every_s
        )
        trackers = None
        if env.is_rank_zero:
            texts = {
                f"{section}.{field}": str(value)
                for section, fields in config.model_dump().items()
                for field, value in fields.items()
            }
            info = RunInfo(self.run_dir, self.run_dir.resolve().name, config.telemetry.project, texts)
            trackers = open_trackers(config.telemetry, info)
        return machine, RunRecord(
            self.run_dir, env.rank, first_step, self.total_steps, self.request.quiet, machine, trackers
        )

    def _build_hooks(self, record: RunRecord, first_step: int) -> RunHooks:
        config, comm, phases = self.config, self.comm, self.control_plane.phases
        stop = StopAgreement(self.stop_request, comm)
        evaluate_val = (lambda: self._evaluate("val")) if len(self.prepared.dataset.splits["val"]) else None
        training_log = TrainingLog(
            record, comm, self.parts.schedule, phases, config.train.log_every_steps, first_step, self.total_steps
        )
        training_log.exchange = ExchangeTimes(self.parts.model, comm.device)
        validation = Validation(evaluate_val, config.train.eval_every_epochs, config.checkpoint.best, stop, record)
        checkpointing = Checkpointing(
            self.writer, self._take_shard, training_log, validation, stop, config.checkpoint, self.total_steps
        )
        path = self.run_dir / PROFILE / f"rank_{self.env.rank}.json.gz"
        profile = StepProfile(path, config.train.profile_steps, first_step)
        return RunHooks(training_log, validation, checkpointing, stop, self.weight_check, phases, profile)

    def _result(
        self, test: Evaluation | None, wall_s: float, energy_j: float | None, steps_ms: dict[str, float],
        first_step: int, restarts: int,
    ) -> dict[str, Any]:  # fmt: skip
        plan, step = self.prepared.plan, self.position.step
        trained = plan.samples_before(step) - plan.samples_before(first_step)
        with self._final_weights():
            result = {
                "status": "finished",
                "step": step,
                "epoch": self.position.epoch,
                "test": test.as_json() if test else None,
                "weights_sha256": weights_sha256(self.model.state_dict()),
                "wall_s": round(wall_s, 3),
                "samples_per_second": round(trained / wall_s, 1),
                "step_ms": steps_ms,
                "world_size": self.env.world_size,
                "restarts": restarts,
            }
            if energy_j is not None and trained:
                result["energy_j_per_1000_samples"] = round(1000 * energy_j / trained, 3)
            if self.one_worker is not None and steps_ms:
                count = len(plan.step_range(0))
                result |= scaling_figures(self.one_worker, count, self.env.world_size, steps_ms["p50"])
            if self.env.is_rank_zero:
                golden = record_golden(self.prepared, self.model, self.comm.device)
                save_model_dir(self.run_dir / MODEL, self.model, self.prepared.spec, golden, {"test": result["test"]})
                write_json(self.run_dir / RESULT, result)
        return result

    def _final_weights(self) -> contextlib.AbstractContextManager[None]:
        ema = self.parts.ema
        return ema.applied() if ema else contextlib.nullcontext()

    def _evaluate(self, split: str) -> Evaluation:
        prepared, comm, env = self.prepared, self.comm, self.env
        batches = EvalPipeline(
            prepared.samples,
            prepared.dataset.splits[split],
            self.config.batch.eval_batch_size,
            env.rank,
            env.world_size,
            self.config.batch.shards,
        )
        loss = build_loss(user_loss=self.request.loss, scalar_is_sum=prepared.loss.scalar_is_sum)
        should_stop = StopAgreement(self.stop_request, comm)
        comm.broadcast_buffers(self.model)
        with self.control_plane.phases.during("evaluating"), self._final_weights():
            return evaluate(
                self.model, batches, loss, comm, prepared.dataset.class_names, prepared.symmetries,
                prepared.loss.scores_classes, should_stop,
            )  # fmt: skip

    def _take_shard(self) -> tuple[dict[str, torch.Tensor], CheckpointValues]:
        self.weight_check(self.position.step)
        tensors = rank_shard(self.parts, self.model, self.env.rank, self.env.world_size)
        values = plain_values(self.parts, self.position)
        return tensors, dataclasses.replace(values, nonfinite=self.on_nonfinite.used)

    def _roll_back(self) -> int | None:
        self.writer.wait()
        last = _newest_snapshot(self.run_dir, self.env, self.control_plane, f"rollback {self.on_nonfinite.used}")
        if last is None:
            return None
        restore(self.parts, self.model, Position(), last)
        return last.values.step

    def _stopped(self) -> str:
        step, total = self.position.step, self.total_steps
        if self.writer.saved_step == step:
            saved = f"asked to stop: the checkpoint of step {step} of {total} is saved. "
        else:
            saved = f"asked to stop at step {step} of {total}, which is not saved: the checkpoint before it stands. "
        return saved + "Run the same command again to go on."
