#!/usr/bin/env bash
# Several machines: run one of these commands on each. All of them must see the same output folder.
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 scripts/launch/multi_node.sh RECIPE-OR-FLAGS     on the first
#   NODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 scripts/launch/multi_node.sh RECIPE-OR-FLAGS     on the second
# GPUS: processes on each machine, by default one for each of its GPUs. The tests run it as two "machines" on one (gloo,
# CPUs); not run on GPUs.
set -euo pipefail
exec torchrun \
    --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "${GPUS:-gpu}" \
    --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" \
    "$(dirname "$0")/../train.py" "$@"
