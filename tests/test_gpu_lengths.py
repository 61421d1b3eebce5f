"""A budget per image on a GPU: batches against images alone."""

import pytest
import torch

from models import build, images
from repshift import Level, Plan, Redundancy, Shift, compress

pytestmark = pytest.mark.gpu
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def unlike(count, dtype, device):
    """Photos of which more and more is black, so that they need fewer and fewer tokens."""
    photos = images(count, torch.float64)
    for number, photo in enumerate(photos):
        photo[:, :, : number * photo.shape[-1] // (count + 1)] = 0
    return photos.to(device, dtype)


@pytest.mark.parametrize("family", ["deit distilled", "dinov2 registers", "dinov3", "rope mixed"])
@pytest.mark.parametrize("dtype", list(NEAR), ids=str)
@pytest.mark.parametrize(("score", "level"), [(Shift(), 0.2), (Redundancy("block"), 0.03)], ids=str)
@torch.inference_mode()
def test_an_image_in_a_batch_is_what_it_is_alone(device, family, dtype, score, level):
    model, photos = build(family, torch.float64).to(device, dtype), unlike(4, dtype, device)
    with compress(model, Plan({0: Level(level), 2: Level(level)}, score)) as compression:
        together, lengths, kept = model(photos), compression.lengths, compression.kept
        assert len(lengths.unique()) > 1
        assert lengths.device.type == device.type
        for number in range(4):
            alone = model(photos[number : number + 1])
            own = kept[number, : lengths[number]]
            same = torch.equal(compression.kept[0], own)
            # In half precision a score near its level may fall on either side of it.
            if same or dtype == torch.float32:
                assert same
                assert (alone[0] - together[number]).abs().max() < NEAR[dtype]
