#!/usr/bin/env bash
# VIE on two nodes of eight GPUs. A job that SLURM stops (time limit, preemption) keeps its last step and is queued again;
# the same command goes on. Submit with: sbatch docs/slurm.sh
#SBATCH --job-name=vie
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# To the steps of the job two minutes before its end; torchrun hands it on to its ranks.
#SBATCH --signal=TERM@120

export OMP_NUM_THREADS=1
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$MASTER:29500" \
  -m pretrain train --config kinetics400_resnet3d data.path="$DATA" run="$RUN" ||
  scontrol requeue "$SLURM_JOB_ID"
