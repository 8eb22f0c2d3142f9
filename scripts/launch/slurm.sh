#!/usr/bin/env bash
# SLURM: sbatch scripts/launch/slurm.sh RECIPE-OR-FLAGS      (sbatch --nodes 4 … for another size). Not run.
# A job that reaches its time limit is queued again and resumes from its last checkpoint.
#SBATCH --job-name=vit-custom
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR NODES=$SLURM_NNODES
# SLURM_NODEID is known only where srun has started the task.
srun bash -c 'NODE_RANK=$SLURM_NODEID exec scripts/launch/multi_node.sh "$@"' multi_node "$@"
