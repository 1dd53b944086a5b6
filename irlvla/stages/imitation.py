"""Stage (a): imitate the human driver, while learning to see and to speak.

One step: decode a batch of scenes, let the model predict plan, objects, map, bird's-eye view and answer, add up the
weighted losses, step. The weights that are saved are the running average.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from irlvla.data.scenes import human_plan
from irlvla.model.config import ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.inputs import SceneInputs, SceneTargets
from irlvla.model.language import make_tokenizer
from irlvla.model.plan_space import PlanSpace
from irlvla.stages.optimisation import (
    WeightAverage,
    adamw,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
    warm_up_cosine,
)
from irlvla.stages.run import OnProgress, Progress, RunFolder, no_progress, seed_step
from irlvla.stages.scenes import DataConfig, SceneBatches, batch_loader, open_training_scenes, scene_logs, split_by_log
from irlvla.types import INSTRUCTION


@dataclass(frozen=True)
class ImitationConfig:
    """How stage (a) trains. Values are our own choice: the paper names none."""

    steps: int = 3000
    """Optimizer steps in all."""
    batch_size: int = 16
    """Scenes a step, over all processes."""
    learning_rate: float = 6e-4
    """Peak of the schedule."""
    weight_decay: float = 1e-2
    """AdamW; vectors are not decayed."""
    warm_up_steps: int = 100
    """Steps of linear warm-up; a half cosine follows."""
    gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    average_decay: float = 0.998
    """Decay of the averaged weights, which are the ones saved."""
    standard_question_share: float = 0.5
    """Chance that a scene whose written question says more than the standard one is put the standard one, so that the
    driver follows words where there are some and does without where there are none."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision on a GPU."""
    workers: int = 1
    """Processes that decode images; 0 decodes in the training process."""
    keep_decoded: int = 3000
    """Scenes kept decoded in memory."""
    check_every: int = 500
    """Steps between measurements of the plan's error on held-out logs; 0 never measures."""
    check_scenes: int = 64
    """Held-out scenes measured."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int = 250
    """Steps between resume states."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers to log to besides metrics.jsonl, for instance "tensorboard" or "wandb"."""


class _ImitationLoss(nn.Module):
    """Data-parallel wrappers see only `forward`, so the losses are computed in one."""

    def __init__(self, vla: DrivingVLA) -> None:
        super().__init__()
        self.vla = vla

    def forward(self, inputs: SceneInputs, targets: SceneTargets) -> dict[str, Tensor]:
        return self.vla.imitation_losses(inputs, targets)


def train_imitation(
    model: ModelConfig,
    config: ImitationConfig,
    data: DataConfig,
    out: Path,
    *,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Train the driving VLA on human plans; goes on where an interrupted run of the same settings stopped.

    Args:
        model: Size of the model.
        config: How to train.
        data: Scenes to learn from.
        out: Run folder.
        seed: Fixes initial weights, data order and noise.
        on_progress: Told after every step.
    Returns:
        Folder of the final weights, `DrivingVLA.from_pretrained` reads it.
    Raises:
        RunError: `out` holds another run, or the disk is full.
        DataError: the data root or one of its files is missing or damaged.
    """
    accelerator = Accelerator(
        # Not told so, Accelerate would run each process of a CPU torchrun as if it were alone.
        cpu=not torch.cuda.is_available(),
        mixed_precision=config.precision,
        log_with=list(config.trackers) or None,
        project_dir=str(out),
    )
    with accelerator.main_process_first():
        run = RunFolder(out, "imitation", {"model": model, "imitation": config, "data": data}, seed)
    if run.finished:
        return run.model_path
    run.start_trackers(config.trackers, accelerator)

    scenes = open_training_scenes(data)
    rows, held_out = split_by_log(scene_logs(scenes), data.held_out_share, data.draw)
    batches = SceneBatches(data, scenes, model, config.keep_decoded)
    plans = np.stack([human_plan(batches.scenes[row]) for row in rows])
    plan_space = PlanSpace.fit(plans, model.plan_coefficients)
    tokenizer = make_tokenizer(model, batches.texts(rows))

    seed_step(seed, 0, "weights")
    vla = DrivingVLA(model, tokenizer, plan_space)
    loss_module = _ImitationLoss(vla)
    optimizer = adamw(loss_module, config.learning_rate, config.weight_decay)
    start = 0
    with accelerator.main_process_first():
        checkpoint = run.load_checkpoint()
    if checkpoint is not None:
        start = checkpoint.step
        vla.load_state_dict(checkpoint.part("model"))
        load_optimizer(optimizer, checkpoint.part("optimizer"))
    prepared, optimizer = accelerator.prepare(loss_module, optimizer)
    average = WeightAverage(vla, config.average_decay)
    if checkpoint is not None:
        average.load(checkpoint.part("average"), updates=start)

    share = slice(accelerator.process_index, None, accelerator.num_processes)
    steps = range(start, config.steps)
    prepared.train()
    for step, (inputs, targets) in zip(
        steps,
        batch_loader(batches, rows, steps, config.batch_size, seed, config.workers, share),
        strict=True,
    ):
        seed_step(seed, step, f"imitation {accelerator.process_index}")
        inputs = _ask_standard_question(inputs, config.standard_question_share)
        learning_rate = config.learning_rate * warm_up_cosine(step, config.steps, config.warm_up_steps)
        set_learning_rate(optimizer, learning_rate)
        with accelerator.autocast():
            losses = prepared(inputs.to(accelerator.device), targets.to(accelerator.device))
        loss = torch.stack(list(losses.values())).sum()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(prepared.parameters(), config.gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        average.update(vla)

        done = step + 1
        if not accelerator.is_main_process:
            continue
        if done % config.log_every == 0 or done == config.steps:
            metrics = {"loss": float(loss.detach()), "learning_rate": learning_rate, "gradient_norm": float(norm)}
            metrics |= {f"loss/{name}": float(value.detach()) for name, value in losses.items()}
            if config.check_every and held_out and (done % config.check_every == 0 or done == config.steps):
                with average.applied_to(vla):
                    metrics |= _plan_error(vla, batches, held_out[: config.check_scenes], config.batch_size)
            run.log(done, metrics)
            on_progress(Progress("imitation", done, config.steps, metrics))
        if done % config.checkpoint_every == 0 and done < config.steps:
            run.save_checkpoint(
                done,
                {
                    "model": vla.state_dict(),
                    "optimizer": optimizer_tensors(optimizer),
                    "average": average.average,
                },
            )
    if accelerator.is_main_process:
        with average.applied_to(vla):
            run.finish(vla.save_pretrained, config.steps, scenes=len(rows), held_out_scenes=len(held_out))
    accelerator.wait_for_everyone()
    return run.model_path


def _ask_standard_question(inputs: SceneInputs, share: float) -> SceneInputs:
    drawn = (torch.rand(len(inputs)) < share).tolist()
    questions = (INSTRUCTION if swap else asked for swap, asked in zip(drawn, inputs.instructions, strict=True))
    return replace(inputs, instructions=tuple(questions))


@torch.no_grad()
def _plan_error(vla: DrivingVLA, batches: SceneBatches, rows: list[int], batch_size: int) -> dict[str, float]:
    """Mean and final distance (m) between the deterministic and the human plan."""
    device = next(vla.parameters()).device
    vla.eval()
    errors = []
    for first in range(0, len(rows), batch_size):
        inputs, targets = batches[rows[first : first + batch_size]]
        plans = vla.plan(inputs.to(device))[:, 0].cpu()
        errors.append((plans - targets.plan)[..., :2].norm(dim=-1))
    vla.train()
    error = torch.cat(errors)
    return {"held_out_mean_error_m": float(error.mean()), "held_out_final_error_m": float(error[:, -1].mean())}
