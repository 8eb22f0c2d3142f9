"""A trial before the first step: forward and backward of an empty batch, for an estimate of time and memory."""

import time
from typing import Any

import torch

from .progress import peak_memory

QUICK = 1.0  # seconds; a shorter trial is made twice, since the first one prepares kernels


def try_step(model: Any, args: Any) -> tuple[float, int | None] | None:
    """Return the seconds of a step's products, and the peak memory in bytes as `peak_memory`; None where not tried.

    The batch is zeros in the size of a training's batch. Weights, gradients and random numbers are as before. It is not
    tried with several processes, whose gradients are exchanged, nor for a model that is compiled.
    """
    if args.world_size > 1 or args.torch_compile or args.deepspeed or args.fsdp:
        return None
    config = model.config
    shape = (args.per_device_train_batch_size, config.num_channels, *config.image_hw)
    training = [(module, module.training) for module in model.modules()]
    device = model.device
    devices = [device] if device.type == "cuda" else []
    images = torch.zeros(shape, device=device)
    kind = torch.bfloat16 if args.bf16 else torch.float16
    try:
        model.train()
        with torch.random.fork_rng(devices), torch.autocast(device.type, kind, enabled=args.bf16 or args.fp16):
            seconds = _timed(model, images)
            if seconds < QUICK:
                seconds = _timed(model, images)
    finally:
        for module, flag in training:
            module.training = flag
        for weight in model.parameters():
            weight.grad = None
    return args.gradient_accumulation_steps * seconds, peak_memory(device)


def _timed(model: Any, images: torch.Tensor) -> float:
    start = time.perf_counter()
    output = model(pixel_values=images)[0].float()
    if output.requires_grad:
        output.square().mean().backward()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
