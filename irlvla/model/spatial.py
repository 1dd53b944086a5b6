"""3D reasoning: images are lifted and LiDAR is laid into one bird's-eye view, from which objects and map are read.

Shape letters: B scenes, V cameras, N BEV cells along a side, Z heights, C channels, Q object queries, M map queries,
P polyline points, D = d_model, S semantic layers. BEV rows run along x (rear to front), columns along y (right to
left).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from irlvla.geometry import GROUND_Z_M
from irlvla.model.config import ModelConfig
from irlvla.model.inputs import BEV_LAYERS, MAP_TYPES, SceneInputs, SceneTargets
from irlvla.types import OBJECT_TYPES

MIN_DEPTH_M = 0.5
VELOCITY_SCALE_MPS = 10.0
ROUTE = BEV_LAYERS.index("route")


@dataclass(frozen=True)
class SpatialPrediction:
    """What 3D reasoning makes of B scenes."""

    bev_tokens: Tensor
    """[B, bev_tokens², D]."""
    bev_map: Tensor
    """[B, bev_channels, N, N]."""
    object_tokens: Tensor
    """[B, Q, D]."""
    map_tokens: Tensor
    """[B, M, D]."""
    center_logits: Tensor
    """[B, N, N] heat map of object centers."""
    object_logits: Tensor
    """[B, Q, len(OBJECT_TYPES) + 1], the last class is 'nothing'."""
    object_boxes: Tensor
    """[B, Q, 8] x, y (m), log length, log width, sin and cos of heading, vx, vy (10 m/s)."""
    map_logits: Tensor
    """[B, M, len(MAP_TYPES) + 1], the last class is 'nothing'."""
    map_polylines: Tensor
    """[B, M, P, 2] x, y (m)."""


class BevAdaptor(nn.Module):
    """Looks up each BEV cell, at several heights, in the camera that sees it best; joins LiDAR; widens the view."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.bev_channels
        self.cell_points: Tensor
        self.register_buffer("cell_points", _cell_points(config), persistent=False)
        self.lidar = nn.Sequential(
            _conv(config.lidar_channels, 24, stride=2),
            nn.Conv2d(24, channels, 3, stride=config.lidar_cells_per_bev_cell // 2, padding=1),
        )
        self.no_lidar = nn.Parameter(torch.randn(channels) * 0.02)
        self.lift = nn.Conv2d(len(config.bev_heights_m) * config.image_channels, channels, 1)
        self.place = nn.Parameter(torch.randn(channels, config.bev_cells, config.bev_cells) * 0.02)
        self.fuse = _conv(channels, channels)
        self.down = _conv(channels, 2 * channels, stride=2)
        self.wide = _conv(2 * channels, 2 * channels)
        self.up = nn.Conv2d(2 * channels, channels, 1)
        self.merge = nn.Conv2d(channels, channels, 3, padding=1)
        pool = config.bev_cells // 2 // config.bev_tokens
        self.tokens = nn.Conv2d(2 * channels, config.d_model, pool, stride=pool)
        self.token_place = nn.Parameter(torch.randn(config.bev_tokens**2, config.d_model) * 0.02)
        self.token_norm = nn.LayerNorm(config.d_model)

    def forward(self, fine_BVCHW: Tensor, inputs: SceneInputs) -> tuple[Tensor, Tensor]:
        """BEV map [B, C, N, N] and BEV tokens [B, bev_tokens², D]."""
        config = self.config
        cells = config.bev_cells
        grid, seen = look_up_in_cameras(
            self.cell_points, inputs, config.image_height, config.image_width, fine_BVCHW.shape[-1]
        )
        # One wide picture of all cameras side by side: each point is sampled once, not once per camera.
        panorama = fine_BVCHW.permute(0, 2, 3, 1, 4).flatten(3)
        sampled = functional.grid_sample(panorama, grid[:, None], padding_mode="border", align_corners=False)[:, :, 0]
        sampled = (sampled * seen[:, None]).unflatten(-1, (-1, cells, cells)).flatten(1, 2)
        lidar = self.lidar(inputs.lidar.to(sampled.dtype) / 100.0)
        lidar = torch.where(inputs.has_lidar[:, None, None, None], lidar, self.no_lidar[:, None, None])
        near = self.fuse(functional.relu(self.lift(sampled) + self.place + lidar))
        far = self.wide(self.down(near))
        widened = functional.interpolate(self.up(far), scale_factor=2, mode="bilinear", align_corners=False)
        bev_map = self.merge(functional.relu(near + widened))
        tokens = self.token_norm(self.tokens(far).flatten(2).transpose(1, 2) + self.token_place)
        return bev_map, tokens


class ObjectHead(nn.Module):
    """Detection: queries start at the peaks of a center heat map and are refined against the BEV tokens.

    Source: query initialisation as in Bai et al. 2022, "TransFusion", section 3.2; set prediction as in DETR.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.centers = nn.Conv2d(config.bev_channels, 1, 1)
        nn.init.constant_(self.centers.bias, -4.0)  # type: ignore[arg-type]
        self.embed = nn.Linear(config.bev_channels, width)
        self.place = nn.Linear(2, width)
        self.decoder = _decoder(config)
        self.types = nn.Linear(width, len(OBJECT_TYPES) + 1)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 8))
        # Boxes start at their cells, so that the first matching is already by place.
        nn.init.normal_(self.boxes[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.boxes[-1].bias)  # type: ignore[arg-type]
        self.describe = nn.Linear(8 + len(OBJECT_TYPES) + 1, width)
        self.norm = nn.LayerNorm(width)
        self.cell_points: Tensor
        self.register_buffer("cell_points", _cell_points(config, (0.0,))[:, :2], persistent=False)

    def forward(self, bev_map: Tensor, bev_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Object tokens [B, Q, D], center logits [B, N, N], type logits [B, Q, types + 1], boxes [B, Q, 8]."""
        center_logits = self.centers(bev_map)[:, 0]
        heat = center_logits.detach()
        peaks = functional.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        ranked = torch.where(heat == peaks, heat, heat - 100.0).flatten(1)
        cells = ranked.topk(self.config.n_object_queries, dim=1).indices
        features = bev_map.flatten(2).transpose(1, 2)
        picked = torch.gather(features, 1, cells[..., None].expand(-1, -1, features.shape[-1]))
        places = self.cell_points[cells]
        queries = self.embed(picked) + self.place(places / 16.0)
        for layer in self.decoder:
            queries = layer(queries, bev_tokens)
        logits, raw = self.types(queries), self.boxes(queries)
        cell_m = (self.config.bev_x_m[1] - self.config.bev_x_m[0]) / self.config.bev_cells
        boxes = torch.cat([places + cell_m * raw[..., :2], raw[..., 2:]], dim=-1)
        # A token says in plain numbers where its object is, beside what the decoder felt.
        plain = torch.cat([boxes[..., :2] / 16.0, raw[..., 2:], logits.softmax(-1)], dim=-1).detach()
        return self.norm(queries + self.describe(plain)), center_logits, logits, boxes


class MapHead(nn.Module):
    """Map: learned queries gather lane center lines, crosswalks and stop lines from the BEV tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.d_model
        self.queries = nn.Parameter(torch.randn(config.n_map_queries, width) * 0.5)
        self.decoder = _decoder(config)
        self.types = nn.Linear(width, len(MAP_TYPES) + 1)
        self.points = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * config.map_points))
        self.describe = nn.Linear(2 * config.map_points + len(MAP_TYPES) + 1, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, bev_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map tokens [B, M, D], type logits [B, M, types + 1], polylines [B, M, P, 2]."""
        queries = self.queries.expand(len(bev_tokens), -1, -1)
        for layer in self.decoder:
            queries = layer(queries, bev_tokens)
        logits, raw = self.types(queries), self.points(queries)
        (x_min, x_max), (y_min, y_max) = self.config.bev_x_m, self.config.bev_y_m
        center = raw.new_tensor([(x_min + x_max) / 2, (y_min + y_max) / 2])
        polylines = center + 16.0 * raw.unflatten(-1, (-1, 2))
        plain = torch.cat([raw, logits.softmax(-1)], dim=-1).detach()
        return self.norm(queries + self.describe(plain)), logits, polylines


class SpatialReasoner(nn.Module):
    """BEV adaptor, detection head and map head; with the losses that teach them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bev = BevAdaptor(config)
        self.objects = ObjectHead(config)
        self.map = MapHead(config)
        channels = config.bev_channels
        self.semantics = nn.Sequential(nn.Conv2d(channels, 4 * (len(BEV_LAYERS) - 1), 1), nn.PixelShuffle(2))
        self.route_by_command = nn.Linear(config.d_model, 2 * channels)
        self.route = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, 4, 1), nn.PixelShuffle(2))

    def forward(self, fine_BVCHW: Tensor, inputs: SceneInputs) -> SpatialPrediction:
        bev_map, bev_tokens = self.bev(fine_BVCHW, inputs)
        object_tokens, centers, object_logits, boxes = self.objects(bev_map, bev_tokens)
        map_tokens, map_logits, polylines = self.map(bev_tokens)
        return SpatialPrediction(
            bev_tokens, bev_map, object_tokens, map_tokens, centers, object_logits, boxes, map_logits, polylines
        )

    def picture(self, bev_map: Tensor, command_BD: Tensor) -> Tensor:
        """Logits [B, S, 2N, 2N] of `BEV_LAYERS`; the route layer alone depends on the driving command."""
        scale, shift = self.route_by_command(command_BD)[..., None, None].chunk(2, dim=1)
        return torch.cat([self.semantics(bev_map), self.route(bev_map * (1 + scale) + shift)], dim=1)

    def losses(self, predicted: SpatialPrediction, command_BD: Tensor, targets: SceneTargets) -> dict[str, Tensor]:
        """Unweighted losses, by their name in `LossWeights`."""
        truth = targets.bev_semantics.to(predicted.bev_map.dtype)
        picture = self.picture(predicted.bev_map, command_BD)
        # Agents and red lights cover few cells; unweighted, saying 'nothing anywhere' would be nearly right.
        rarity = (1.0 / truth.mean((0, 2, 3)).clamp(min=0.02)).sqrt()[:, None, None]
        semantics = functional.binary_cross_entropy_with_logits(picture, truth, weight=1 + truth * (rarity - 1))
        heat = self._center_heat(targets)
        object_types, object_boxes = object_losses(predicted, targets)
        map_types, map_polylines = map_losses(predicted, targets)
        return {
            "bev_semantics": semantics,
            "object_centers": focal_loss(predicted.center_logits, heat),
            "object_types": object_types,
            "object_boxes": object_boxes,
            "map_types": map_types,
            "map_polylines": map_polylines,
        }

    def _center_heat(self, targets: SceneTargets) -> Tensor:
        points = self.objects.cell_points
        cell_m = (self.config.bev_x_m[1] - self.config.bev_x_m[0]) / self.config.bev_cells
        squared = ((targets.boxes[:, :, None, :2] - points) ** 2).sum(-1) / (0.75 * cell_m) ** 2
        heat = torch.exp(-0.5 * squared) * (targets.box_types >= 0)[..., None]
        nearest = (squared <= squared.amin(-1, keepdim=True)) & (targets.box_types >= 0)[..., None]
        heat = torch.where(nearest, 1.0, heat).amax(1)
        return heat.unflatten(-1, (self.config.bev_cells, self.config.bev_cells))


def look_up_in_cameras(
    points_P3: Tensor, inputs: SceneInputs, image_height: int, image_width: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Where points in the ego frame appear in the pictures, laid side by side.

    A point seen by several cameras is taken from the one that has it nearest its picture's middle column.

    Args:
        points_P3: [P, 3] ego frame, m.
        inputs: of B scenes with V cameras.
        image_height, image_width: of the network's input, px.
        columns: feature columns per camera.
    Returns:
        [B, P, 2] coordinates for `grid_sample` on a panorama of V·columns columns (column, row in [-1, 1]); [B, P] 1
        where some camera sees the point, else 0.
    """
    moved = torch.einsum("bvij,pj->bvpi", inputs.ego_to_camera[..., :3], points_P3)
    moved = moved + inputs.ego_to_camera[..., None, :, 3]
    depth = moved[..., 2]
    flat = moved[..., :2] / depth.clamp(min=MIN_DEPTH_M)[..., None]
    bent, unfolded = _distort(flat, inputs.distortion)
    focal = torch.stack([inputs.intrinsic[..., 0, 0], inputs.intrinsic[..., 1, 1]], dim=-1)
    pixel = bent * focal[..., None, :] + inputs.intrinsic[..., None, :2, 2]
    u, v = pixel[..., 0], pixel[..., 1]
    inside = (u > -0.5) & (u < image_width - 0.5) & (v > -0.5) & (v < image_height - 0.5)
    visible = inside & unfolded & (depth > MIN_DEPTH_M)
    off_middle = torch.where(visible, (u - image_width / 2).abs(), torch.inf)
    best = off_middle.argmin(1, keepdim=True)
    seen = visible.any(1)
    share_u = ((u.gather(1, best)[:, 0] + 0.5) / image_width).clamp(0.5 / columns, 1 - 0.5 / columns)
    share_v = (v.gather(1, best)[:, 0] + 0.5) / image_height
    cameras = inputs.ego_to_camera.shape[1]
    grid = torch.stack([(best[:, 0] + share_u) / cameras, share_v], dim=-1) * 2 - 1
    return torch.where(seen[..., None], grid, 0.0), seen.to(points_P3.dtype)


def _distort(flat_BVP2: Tensor, distortion_BV5: Tensor) -> tuple[Tensor, Tensor]:
    """OpenCV's lens model; also says where it still grows with the angle, beyond which points fold back inwards."""
    k1, k2, p1, p2, k3 = distortion_BV5[..., None].unbind(-2)
    x, y = flat_BVP2.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    growth = 1 + r2 * (3 * k1 + r2 * (5 * k2 + r2 * 7 * k3))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([bent_x, bent_y], dim=-1), growth > 0


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss of a heat map, per object.

    Source: Zhou et al. 2019, "Objects as Points", eq. 1 (alpha 2, beta 4).
    """
    chance = logits.sigmoid()
    peak = heat == 1
    at_peaks = functional.logsigmoid(logits) * (1 - chance) ** 2
    elsewhere = functional.logsigmoid(-logits) * chance**2 * (1 - heat) ** 4
    return -torch.where(peak, at_peaks, elsewhere).sum() / peak.sum().clamp(min=1)


def match(cost_QT: Tensor) -> tuple[list[int], list[int]]:
    """Hungarian matching: the one-to-one pairing of queries (rows) and targets (columns) with the least total cost."""
    rows, columns = linear_sum_assignment(np.nan_to_num(cost_QT.detach().cpu().double().numpy(), nan=1e6))
    return rows.tolist(), columns.tolist()


def object_losses(predicted: SpatialPrediction, targets: SceneTargets) -> tuple[Tensor, Tensor]:
    """Type and box loss of detection queries matched to annotated objects."""
    truth = _box_code(targets.boxes)
    # Metres count half, so that 2 m off costs as much as a wrong heading.
    unit = truth.new_tensor([0.5, 0.5, 1, 1, 1, 1, 1, 1])
    distances = (unit * (predicted.object_boxes[:, :, None] - truth[:, None])).abs().mean(-1)
    return _set_losses(predicted.object_logits, targets.box_types, distances)


def map_losses(predicted: SpatialPrediction, targets: SceneTargets) -> tuple[Tensor, Tensor]:
    """Type and point loss of map queries matched to map pieces; a piece may be traced in either direction."""
    truth = torch.stack([targets.map_polylines, targets.map_polylines.flip(-2)], dim=-3)
    distances_m = (predicted.map_polylines[:, :, None, None] - truth[:, None]).abs().mean((-2, -1)).amin(-1)
    return _set_losses(predicted.map_logits, targets.map_types, distances_m / 4.0)


def _set_losses(logits_BQT: Tensor, types_BM: Tensor, distances_BQM: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of types and mean distance of matched pairs.

    Source: Carion et al. 2020, "End-to-End Object Detection with Transformers", eq. 1 and 2.

    Args:
        logits_BQT: the last class is 'nothing'.
        types_BM: -1 for padding.
        distances_BQM: between each query's and each target's geometry.
    """
    nothing = logits_BQT.shape[-1] - 1
    labels = torch.full(logits_BQT.shape[:2], nothing, device=logits_BQT.device)
    chances = logits_BQT.softmax(-1)
    pairs: list[tuple[int, int, int]] = []
    for scene in range(len(types_BM)):
        real = (types_BM[scene] >= 0).nonzero()[:, 0]
        chance = chances[scene][:, types_BM[scene, real]]
        queries, targets = match(2 * distances_BQM[scene][:, real] - chance)
        pairs += [(scene, query, int(real[target])) for query, target in zip(queries, targets, strict=True)]
    if not pairs:
        return functional.cross_entropy(logits_BQT.flatten(0, 1), labels.flatten()), distances_BQM.sum() * 0
    scene_of, query_of, target_of = torch.tensor(pairs, device=logits_BQT.device).unbind(1)
    labels[scene_of, query_of] = types_BM[scene_of, target_of]
    weight = torch.ones(nothing + 1, device=logits_BQT.device, dtype=logits_BQT.dtype)
    weight[nothing] = 0.3
    types = functional.cross_entropy(logits_BQT.flatten(0, 1), labels.flatten(), weight=weight)
    return types, distances_BQM[scene_of, query_of, target_of].mean()


def _box_code(boxes: Tensor) -> Tensor:
    x, y, length, width, heading, vx, vy = boxes.unbind(-1)
    log_size = [length.clamp(min=0.1).log(), width.clamp(min=0.1).log()]
    motion = [vx / VELOCITY_SCALE_MPS, vy / VELOCITY_SCALE_MPS]
    return torch.stack([x, y, *log_size, heading.sin(), heading.cos(), *motion], dim=-1)


def _cell_points(config: ModelConfig, heights_m: tuple[float, ...] | None = None) -> Tensor:
    (x_min, x_max), (y_min, y_max) = config.bev_x_m, config.bev_y_m
    share = (torch.arange(config.bev_cells) + 0.5) / config.bev_cells
    z = torch.tensor(config.bev_heights_m if heights_m is None else heights_m) + GROUND_Z_M
    z, x, y = torch.meshgrid(z, x_min + share * (x_max - x_min), y_min + share * (y_max - y_min), indexing="ij")
    return torch.stack([x, y, z], dim=-1).flatten(0, 2)


def _conv(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


def _decoder(config: ModelConfig) -> nn.ModuleList:
    return nn.ModuleList(
        nn.TransformerDecoderLayer(
            config.d_model,
            config.n_heads,
            2 * config.d_model,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        for _ in range(config.decoder_layers)
    )
