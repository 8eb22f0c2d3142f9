"""In two processes, every parameter takes part in every step, and the gradients are those of one process."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import ARCHITECTURES, TINY
from torch.nn.parallel import DistributedDataParallel

from modeling_vit_custom import ViTCustomConfig, ViTCustomForImageClassification, ViTCustomForMaskedImageModeling

LABELS = torch.tensor([0, 1, 2, 3])
MASKS = torch.arange(4 * 24).view(4, 24) % 3 == 0


def inputs_of(model) -> dict[str, torch.Tensor]:
    """Return four images of the model's size with what its loss needs; each image has as many masked patches."""
    h, w = model.config.grid_hw
    images = torch.randn(4, 3, *model.config.image_hw, generator=torch.Generator().manual_seed(1))
    if isinstance(model, ViTCustomForMaskedImageModeling):
        return {"pixel_values": images, "bool_masked_pos": MASKS[:, : h * w]}
    return {"pixel_values": images, "labels": LABELS}


def compare_with_one_process(rank: int, store: str):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    models = [(ViTCustomForImageClassification, fields) for fields in ARCHITECTURES.values()]
    models += [(ViTCustomForMaskedImageModeling, {}), (ViTCustomForMaskedImageModeling, {"final_norm": "pooled"})]
    for cls, fields in models:
        torch.manual_seed(0)
        model = cls(ViTCustomConfig(**{**TINY, **fields}))
        alone, batch = copy.deepcopy(model), inputs_of(model)
        alone(**batch).loss.backward()
        shared = DistributedDataParallel(model)  # raises in its second step if a parameter has no gradient
        for _ in range(2):
            model.zero_grad()
            shared(**{name: tensor[2 * rank : 2 * rank + 2] for name, tensor in batch.items()}).loss.backward()
        for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6, msg=f"{cls.__name__} {fields} {name}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    mp.spawn(compare_with_one_process, args=(str(tmp_path / "store"),), nprocs=2)
