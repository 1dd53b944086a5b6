"""Sizes of the driving VLA: one frozen configuration, from a laptop's `tiny` to a GPU's full size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from irlvla.errors import ConfigError
from irlvla.types import CAMERA_NAMES


@dataclass(frozen=True)
class LossWeights:
    """Weights of the imitation losses; 0 switches a loss off. All are our own choice: the paper names none."""

    plan_coefficients: float = 1.0
    """Denoised against human plan, in plan-space coefficients."""
    plan_waypoints: float = 0.5
    """Denoised against human waypoints, in metres (and radians times the heading's lever arm)."""
    bev_semantics: float = 2.0
    """Top-down picture of road, lanes, crosswalks, red lights and agents now and in the next 4 s."""
    object_centers: float = 1.0
    """Heat map of object centers, from which the detection queries start."""
    object_types: float = 0.5
    """Type (or 'nothing') of each detection query."""
    object_boxes: float = 0.5
    """Center, size, heading and velocity of matched detection queries."""
    map_types: float = 0.3
    """Type (or 'nothing') of each map query."""
    map_polylines: float = 0.5
    """Points of matched map queries."""
    answer: float = 0.3
    """Next-token loss of the driving answer."""
    meta_action: float = 0.3
    """Speed word and path word read off the meta tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shape of a `DrivingVLA`; the defaults are the `tiny` size."""

    cameras: tuple[str, ...] = ("CAM_L0", "CAM_F0", "CAM_R0")
    """Cameras looked through, out of `irlvla.types.CAMERA_NAMES`, in this order."""
    image_height: int = 96
    """Rows of the network's input; images are scaled to `image_width`, then cropped to this many rows."""
    image_width: int = 256
    """Columns of the network's input."""
    crop_from_top: float = 0.5
    """Share of the surplus rows that is cropped at the top (sky); the rest goes at the bottom (bonnet)."""
    backbone: str = "resnet10_narrow"
    """Image backbone: one of `irlvla.model.backbone.RESNETS`, or the name or folder of a transformers backbone."""
    image_channels: int = 64
    """Channels of the fused image features (stride 8)."""

    d_model: int = 128
    """Width of all scene tokens and of planner and reward world model."""
    n_heads: int = 4
    """Attention heads."""
    dropout: float = 0.0
    """Dropout after attention and feed-forward layers."""

    bev_x_m: tuple[float, float] = (-16.0, 48.0)
    """Reach of the bird's-eye view behind and ahead of the rear axle."""
    bev_y_m: tuple[float, float] = (-32.0, 32.0)
    """Reach to the right (negative) and left."""
    bev_cells: int = 32
    """Cells along each side of the BEV feature map."""
    bev_tokens: int = 8
    """BEV tokens along each side: the map pooled for attention."""
    bev_channels: int = 48
    """Channels of the BEV map that planner and reward world model sample at waypoints."""
    bev_heights_m: tuple[float, ...] = (0.0, 1.5)
    """Heights above the street at which each BEV cell is looked up in the cameras."""
    lidar_cells_per_bev_cell: int = 4
    """LiDAR histogram cells along a side of one BEV cell."""
    lidar_bands_m: tuple[float, ...] = (-0.3, 0.35, 1.2, 3.5)
    """Edges of the height bands of the LiDAR histogram, above the street."""

    n_object_queries: int = 24
    """Detection queries, hence object tokens."""
    n_map_queries: int = 24
    """Map queries, hence map tokens."""
    map_points: int = 8
    """Points of each map polyline."""
    decoder_layers: int = 1
    """Layers of the detection and of the map decoder."""

    language_model: str = "llama_tiny"
    """`llama_tiny` (from scratch, sizes below), or the name or folder of a transformers causal language model."""
    language_width: int = 128
    """Hidden width of `llama_tiny`."""
    language_layers: int = 2
    """Layers of `llama_tiny`."""
    language_heads: int = 4
    """Attention heads of `llama_tiny`."""
    vocabulary: int = 1024
    """Largest size of the tokenizer trained from scratch."""
    max_words: int = 64
    """Longest instruction, and longest answer, in language tokens."""
    image_tokens_per_camera: tuple[int, int] = (2, 4)
    """Rows and columns of image tokens which the language model sees per camera."""
    n_meta_tokens: int = 8
    """Learned queries after the instruction; their hidden states are the meta tokens."""

    ego_status_dropout: float = 0.3
    """Chance in imitation training that speed, acceleration and past poses are hidden (0: never). Ego status alone
    predicts most human plans, so a driver that always has it never learns to look."""

    plan_coefficients: int = 24
    """Principal components of a plan that are kept; 24 keeps all."""
    planner_layers: int = 2
    """Layers of the diffusion planner; each attends to meta, BEV, map and object tokens in turn."""
    diffusion_levels: int = 100
    """Noise levels in training."""
    denoising_steps: int = 8
    """Denoising steps when planning."""
    plan_draws: int = 4
    """Noise levels drawn per scene in an imitation step; all share one look at the scene."""

    reward_layers: int = 2
    """Layers of the reward world model's trunk."""
    reward_heads: int = 4
    """Members of the ensemble of reward heads (three or more)."""

    losses: LossWeights = field(default_factory=LossWeights)
    """Weights of the imitation losses."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.cameras if name not in CAMERA_NAMES]
        if unknown or not self.cameras:
            raise ConfigError(f"cameras {unknown or '()'} are not among {', '.join(CAMERA_NAMES)}")
        if self.d_model % self.n_heads:
            raise ConfigError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.bev_cells % (2 * self.bev_tokens):
            raise ConfigError(f"bev_cells {self.bev_cells} is not a multiple of twice bev_tokens {self.bev_tokens}")
        if self.lidar_cells_per_bev_cell not in (2, 4, 6, 8):
            raise ConfigError(f"lidar_cells_per_bev_cell {self.lidar_cells_per_bev_cell} is not 2, 4, 6 or 8")
        if self.image_height % 32 or self.image_width % 32:
            raise ConfigError(f"image size {self.image_height}x{self.image_width} is not a multiple of 32")
        if not 1 <= self.denoising_steps <= self.diffusion_levels:
            raise ConfigError(f"denoising_steps {self.denoising_steps} is not within 1..{self.diffusion_levels}")
        if not 1 <= self.plan_coefficients <= 24:
            raise ConfigError(f"plan_coefficients {self.plan_coefficients} is not within 1..24")
        if self.reward_heads < 3:
            raise ConfigError(f"reward_heads {self.reward_heads}: doubt needs an ensemble of three or more")

    @property
    def lidar_channels(self) -> int:
        """Height bands of both sweeps."""
        return 2 * (len(self.lidar_bands_m) - 1)

    @property
    def lidar_cells(self) -> int:
        """LiDAR histogram cells along a side."""
        return self.bev_cells * self.lidar_cells_per_bev_cell

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "ModelConfig":
        """Rebuild a configuration from `to_dict`.

        Raises:
            ConfigError: a field is unknown, or a value is out of range.
        """
        known = {f.name for f in fields(ModelConfig)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown model setting {', '.join(unknown)}; was it written by a newer version?")
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        weights = settings.get("losses")
        if isinstance(weights, Mapping):
            unknown = sorted(set(weights) - {f.name for f in fields(LossWeights)})
            if unknown:
                raise ConfigError(f"unknown loss weight {', '.join(unknown)}; was it written by a newer version?")
            settings["losses"] = LossWeights(**weights)
        return ModelConfig(**settings)
