import numpy as np
import torch

from irlvla.model.inputs import SceneInputs
from irlvla.model.tokens import SceneTokens


def _tokens(scenes: int) -> SceneTokens:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 4), (9, 4), (5, 4), (6, 4), (4,), (3, 2, 2), (13,)]
    return SceneTokens(*(torch.randn(scenes, *shape, generator=generator) for shape in shapes))


def test_tokens_survive_a_float16_cache(tmp_path) -> None:
    tokens = _tokens(3)
    np.savez(tmp_path / "tokens.npz", **tokens.to_arrays(half=True))
    with np.load(tmp_path / "tokens.npz") as stored:
        back = SceneTokens.from_arrays(stored)
    assert back.bev_map.dtype == torch.float32
    torch.testing.assert_close(back.bev_map, tokens.bev_map, atol=5e-3, rtol=1e-3)


def test_inputs_keep_types_and_words_through_arrays(inputs: SceneInputs) -> None:
    back = SceneInputs.from_arrays(inputs.to_arrays(half=True))
    assert back.images.dtype == torch.uint8
    assert back.tokens == inputs.tokens
    assert torch.equal(back.images, inputs.images)


def test_rows_are_picked_in_order_and_joined_again(inputs: SceneInputs) -> None:
    picked = SceneInputs.cat([inputs.index_select([2, 0]), inputs.index_select([1])])
    assert picked.tokens == (inputs.tokens[2], inputs.tokens[0], inputs.tokens[1])
    assert torch.equal(picked.command, inputs.command[[2, 0, 1]])
    assert len(picked) == 3


def test_detached_tokens_stop_the_gradient() -> None:
    tokens = _tokens(2)
    tokens.meta.requires_grad_()
    assert not tokens.detach().meta.requires_grad


def test_reduced_precision_leaves_whole_numbers_alone(inputs: SceneInputs) -> None:
    moved = inputs.to("cpu", torch.bfloat16)
    assert moved.images.dtype == torch.uint8
    assert moved.ego_status.dtype == torch.bfloat16
