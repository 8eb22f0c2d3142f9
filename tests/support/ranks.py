"""Trainings in one or several processes, forked from one process that has imported everything; over gloo, on CPUs."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from accelerate.state import AcceleratorState, DistributedType, PartialState

LAUNCH = Path(__file__).parents[2] / "scripts" / "launch"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def places(processes: int, nodes: int = 1) -> list[dict[str, str]]:
    """Return the environment that a launcher gives to each process; an empty one for a single process."""
    if processes == 1:
        return [{}]
    each = processes // nodes
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    return [
        {"RANK": str(rank), "LOCAL_RANK": str(rank % each), "LOCAL_WORLD_SIZE": str(each), **rendezvous}
        for rank in range(processes)
    ]


def fork(
    work: Callable[..., None], environments: Sequence[dict[str, str]], *arguments: Any, method: str = "fork"
) -> list[int]:
    """Run work(environment, *arguments) in one process for each environment; return the exit codes.

    method: "forkserver" if this process may have computed gradients, because torch refuses to compute them in its
    forks.
    """
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["tiny_training"])
    started = []
    for environment in environments:
        started.append(context.Process(target=_child, args=(work, environment, *arguments)))
        started[-1].start()
    for process in started:
        process.join(200)
        if process.exitcode is None:
            for other in started:
                other.kill()
            raise TimeoutError(f"{arguments} hangs")
    return [process.exitcode for process in started]


def _child(work: Callable[..., None], environment: dict[str, str], *arguments: Any) -> None:
    os.environ.update(environment)
    work(environment, *arguments)


def log_to(path: str | Path) -> None:
    """Send the output of this process to a file."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)


def fsdp_environment() -> dict[str, str]:
    """Return the environment that `accelerate launch` makes of the configuration that we ship."""
    config = yaml.safe_load((LAUNCH / "fsdp2.yaml").read_text())["fsdp_config"]
    names = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}
    chosen = {names.get(name, name.upper()): str(value) for name, value in config.items()}
    return {"ACCELERATE_USE_FSDP": "true", **chosen}


def allow_fsdp_on_cpu() -> None:
    """Let accelerate shard on CPUs: it allows only GPUs, although torch can shard on both."""
    whole = AcceleratorState.__init__

    def init(self, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        whole(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


if __name__ == "__main__":  # as a script under a launcher: `train`, with sharding on CPUs
    allow_fsdp_on_cpu()
    from modeling_vit_custom.commands.train import main

    sys.exit(main())
