"""The whole driver."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irlvla.errors import ConfigError, DataError
from irlvla.model.config import LossWeights, ModelConfig
from irlvla.model.driving_vla import DrivingVLA
from irlvla.model.inputs import SceneInputs, SceneTargets
from irlvla.model.language import make_tokenizer, train_tokenizer
from irlvla.model.plan_space import PlanSpace


def test_plans_and_tokens_have_the_promised_shapes(model: DrivingVLA, inputs: SceneInputs, config: ModelConfig) -> None:
    model.eval()
    scenes = len(inputs)
    with torch.no_grad():
        tokens = model.encode(inputs)
    assert tokens.meta.shape == (scenes, config.n_meta_tokens, config.d_model)
    assert tokens.bev.shape == (scenes, config.bev_tokens**2, config.d_model)
    assert tokens.objects.shape == (scenes, config.n_object_queries, config.d_model)
    assert tokens.map.shape == (scenes, config.n_map_queries, config.d_model)
    assert tokens.bev_map.shape == (scenes, config.bev_channels, config.bev_cells, config.bev_cells)
    assert model.plan(inputs).shape == (scenes, 1, 8, 3)
    assert model.plan(inputs, candidates=3).shape == (scenes, 3, 8, 3)
    assert len(model.answer(inputs)) == scenes


def test_losses_reach_every_weight(model: DrivingVLA, inputs: SceneInputs, targets: SceneTargets) -> None:
    half = torch.arange(len(inputs)) % 2 == 0
    model.train()
    losses = model.imitation_losses(replace(inputs, has_lidar=half), targets, torch.Generator().manual_seed(0))
    assert set(losses) == set(vars(LossWeights()))
    torch.stack(list(losses.values())).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_four_scenes_are_learned_by_heart(model: DrivingVLA, inputs: SceneInputs, targets: SceneTargets) -> None:
    few, taught = inputs.index_select(range(4)), targets.index_select(range(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    totals = []
    for _ in range(30):
        losses = model.imitation_losses(few, taught, generator)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.25 * totals[0]
    error_m = (model.plan(few)[:, 0, -1, :2] - taught.plan[:, -1, :2]).norm(dim=-1).mean()
    spread_m = (taught.plan[:, -1, :2] - taught.plan[:, -1, :2].mean(0)).norm(dim=-1).mean()
    assert error_m < 0.4 * spread_m


def test_hidden_ego_status_hides_only_the_status(model: DrivingVLA, inputs: SceneInputs, config: ModelConfig) -> None:
    hide = torch.ones(len(inputs), dtype=torch.bool)
    faster = inputs.ego_status + 5.0
    assert torch.equal(
        model.command(inputs.command, inputs.ego_status, hide), model.command(inputs.command, faster, hide)
    )
    assert not torch.equal(
        model.command(inputs.command, inputs.ego_status, hide),
        model.command(inputs.command.flip(1), inputs.ego_status, hide),
    )


def test_saved_driver_plans_and_speaks_as_before(model: DrivingVLA, inputs: SceneInputs, tmp_path: Path) -> None:
    model.eval()
    model.save_pretrained(tmp_path / "driver")
    back = DrivingVLA.from_pretrained(tmp_path / "driver")
    assert torch.equal(back.plan(inputs), model.plan(inputs))
    assert back.answer(inputs) == model.answer(inputs)
    assert back.config == model.config
    assert sorted(path.name for path in (tmp_path / "driver").iterdir()) == [
        "config.json",
        "model.safetensors",
        "parts.json",
        "tokenizer.json",
    ]


def test_pretrained_eyes_and_language_are_taken_over_and_need_no_hub_to_load_again(
    inputs: SceneInputs, targets: SceneTargets, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, ResNetBackbone, ResNetConfig

    eyes, words = tmp_path / "eyes", tmp_path / "words"
    ResNetBackbone(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4)).save_pretrained(eyes)
    tokenizer = train_tokenizer([*targets.answers, *inputs.instructions], 300)
    small = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    language = LlamaForCausalLM(small)
    language.save_pretrained(words)
    tokenizer.save(str(words / "tokenizer.json"))

    config = ModelConfig(backbone=str(eyes), language_model=str(words))
    model = DrivingVLA(config, make_tokenizer(config, []), PlanSpace()).eval()
    embedding = model.semantic.language.get_input_embeddings().weight
    assert torch.equal(embedding, language.get_input_embeddings().weight)
    losses = model.imitation_losses(inputs, targets)
    assert torch.stack(list(losses.values())).isfinite().all()

    model.save_pretrained(tmp_path / "driver")
    shutil.rmtree(eyes)
    shutil.rmtree(words)
    back = DrivingVLA.from_pretrained(tmp_path / "driver")
    assert torch.equal(back.plan(inputs), model.plan(inputs))
    assert back.answer(inputs) == model.answer(inputs)


@pytest.mark.parametrize("setting", [{"backbone": "no/such-eyes"}, {"language_model": "no/such-words"}])
def test_unknown_pretrained_part_is_named(
    model: DrivingVLA, setting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no/such"):
        DrivingVLA(ModelConfig(**setting), model.tokenizer, PlanSpace())  # type: ignore[arg-type]


def test_equal_seeds_give_equal_drivers(model: DrivingVLA, config: ModelConfig) -> None:
    twins = []
    for _ in range(2):
        torch.manual_seed(3)
        twins.append(DrivingVLA(config, model.tokenizer, PlanSpace(config.plan_coefficients)).state_dict())
    assert all(torch.equal(value, twins[1][name]) for name, value in twins[0].items())


def test_damaged_or_foreign_folders_are_refused_with_their_cause(model: DrivingVLA, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        DrivingVLA.from_pretrained(tmp_path)
    folder = tmp_path / "driver"
    model.save_pretrained(folder)
    whole = (folder / "model.safetensors").read_bytes()

    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        DrivingVLA.from_pretrained(folder)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="safetensors"):
        DrivingVLA.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(whole)

    words = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(words[: len(words) // 2])
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        DrivingVLA.from_pretrained(folder)
    (folder / "tokenizer.json").write_text(words)

    config = json.loads((folder / "config.json").read_text())
    for changed, error in [
        ({**config, "kind": "reward_world_model"}, ConfigError),
        ({**config, "format": 99}, ConfigError),
        ({**config, "model": {**config["model"], "planner_layers": 1}}, ConfigError),
        ({**config, "model": {**config["model"], "colour": "red"}}, ConfigError),
        ({"kind": "driving_vla"}, DataError),
    ]:
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(error):
            DrivingVLA.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        DrivingVLA.from_pretrained(folder)


def test_plan_space_of_another_size_is_refused(model: DrivingVLA, config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="plan_coefficients"):
        DrivingVLA(config, model.tokenizer, PlanSpace(12))
