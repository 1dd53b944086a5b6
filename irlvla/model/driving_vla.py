"""The driving VLA: sensors, words and a command go in; plans and an answer in words come out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from irlvla.errors import ConfigError
from irlvla.model.backbone import ImageFeatures, VisionEncoder
from irlvla.model.checkpoint import load_checkpoint, save_checkpoint
from irlvla.model.command import CommandEncoder
from irlvla.model.config import ModelConfig
from irlvla.model.inputs import SceneInputs, SceneTargets
from irlvla.model.language import TOKENIZER_FILE, tokenizer_from_text
from irlvla.model.plan_space import PlanSpace
from irlvla.model.planner import DiffusionPlanner
from irlvla.model.semantic import SemanticPrediction, SemanticReasoner
from irlvla.model.spatial import SpatialPrediction, SpatialReasoner
from irlvla.model.tokens import SceneTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTS_FILE = "parts.json"
"""Configurations of the language model and of a transformers backbone, so that loading needs no hub."""


class DrivingVLA(nn.Module):
    """Vision encoder, semantic and 3D reasoning, command encoder and diffusion planner, as the paper's figure joins
    them."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: "Tokenizer",
        plan_space: PlanSpace,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        """Build with fresh weights; equal torch seeds give equal weights.

        Args:
            config: sizes.
            tokenizer: from `irlvla.model.language.make_tokenizer`.
            plan_space: fitted on human plans.
            parts: stored configurations of pretrained parts; only `from_pretrained` passes them.
        """
        super().__init__()
        if plan_space.coefficients != config.plan_coefficients:
            raise ConfigError(
                f"the plan space has {plan_space.coefficients} coefficients, plan_coefficients is "
                f"{config.plan_coefficients}"
            )
        parts = parts or {}
        self.config = config
        self.tokenizer = tokenizer
        self.vision = VisionEncoder(config, parts.get("backbone"))
        self.semantic = SemanticReasoner(config, self.vision.coarse_channels, tokenizer, parts.get("language"))
        self.spatial = SpatialReasoner(config)
        self.command = CommandEncoder(config)
        self.planner = DiffusionPlanner(config, plan_space)

    def forward(self, inputs: SceneInputs) -> Tensor:
        """Deterministic plans [B, 8, 3]; see `plan`."""
        return self.planner.plan(self.encode(inputs))

    def encode(self, inputs: SceneInputs, generator: torch.Generator | None = None) -> SceneTokens:
        """Scene tokens; in training mode ego status is sometimes hidden, drawn from `generator`."""
        features = self.vision(inputs.images)
        return self._encode(inputs, features, self.semantic(features.coarse, inputs.instructions), generator)[0]

    def imitation_losses(
        self, inputs: SceneInputs, targets: SceneTargets, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Weighted losses by their name in `LossWeights`; their sum is what imitation minimises."""
        features = self.vision(inputs.images)
        semantic = self.semantic(features.coarse, inputs.instructions, targets.answers)
        tokens, spatial = self._encode(inputs, features, semantic, generator)
        coefficients, waypoints = self.planner.denoising_loss(
            tokens, targets.plan, draws=self.config.plan_draws, generator=generator
        )
        losses = {
            "plan_coefficients": coefficients,
            "plan_waypoints": waypoints,
            **self.spatial.losses(spatial, tokens.command, targets),
            "answer": semantic.answer_loss,
            "meta_action": functional.cross_entropy(semantic.speed_logits, targets.speed_word)
            + functional.cross_entropy(semantic.path_logits, targets.path_word),
        }
        return {name: getattr(self.config.losses, name) * loss for name, loss in losses.items()}

    @torch.no_grad()
    def plan(
        self, inputs: SceneInputs, candidates: int = 1, generator: torch.Generator | None = None, eta: float = 1.0
    ) -> Tensor:
        """Plans [B, candidates, 8, 3] in the ego frame (m, rad).

        One candidate is the deterministic plan; several are sampled with `generator` and `eta`.
        """
        tokens = self.encode(inputs)
        if candidates == 1:
            return self.planner.plan(tokens)[:, None]
        return self.planner.sample_chain(tokens, candidates, eta=eta, generator=generator).poses

    @torch.no_grad()
    def answer(self, inputs: SceneInputs) -> list[str]:
        """What the driver says to each scene's instruction."""
        return self.semantic.answer(self.vision(inputs.images).coarse, inputs.instructions)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json and parts.json; a reader never sees half a file."""
        parts = {"language": self.semantic.stored, "backbone": self.vision.stored}
        texts = {TOKENIZER_FILE: self.tokenizer.to_str(), PARTS_FILE: json.dumps(parts, default=str)}
        weights = dict(self.state_dict())
        save_checkpoint(Path(folder), "driving_vla", self.config.to_dict(), weights, texts)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "DrivingVLA":
        """Load what `save_pretrained` wrote, ready for use (evaluation mode).

        Raises:
            ConfigError: the folder holds another kind of model, or its settings do not fit.
            DataError: a file is missing or damaged.
        """
        stored = load_checkpoint(Path(folder), "driving_vla")
        config = ModelConfig.from_dict(stored.settings)
        tokenizer = tokenizer_from_text(stored.texts[TOKENIZER_FILE])
        parts = json.loads(stored.texts[PARTS_FILE])
        model = cls(config, tokenizer, PlanSpace(config.plan_coefficients), parts)
        stored.load_weights(model)
        return model.eval()

    def _encode(
        self,
        inputs: SceneInputs,
        features: ImageFeatures,
        semantic: SemanticPrediction,
        generator: torch.Generator | None,
    ) -> tuple[SceneTokens, SpatialPrediction]:
        hide = None
        if self.training and self.config.ego_status_dropout:
            device = generator.device if generator is not None else inputs.command.device
            draw = torch.rand(len(inputs), generator=generator, device=device).to(inputs.command.device)
            hide = draw < self.config.ego_status_dropout
        spatial = self.spatial(features.fine, inputs)
        tokens = SceneTokens(
            meta=semantic.meta,
            bev=spatial.bev_tokens,
            map=spatial.map_tokens,
            objects=spatial.object_tokens,
            command=self.command(inputs.command, inputs.ego_status, hide),
            bev_map=spatial.bev_map,
            ego_status=inputs.ego_status,
        )
        return tokens, spatial
