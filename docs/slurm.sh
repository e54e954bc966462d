#!/usr/bin/env bash
# VIE on two nodes of eight GPUs. A job that SLURM stops (time limit, preemption) keeps its last step and is queued again;
# the same command goes on. RUN lies on a file system that all nodes share. Submit with:
#   DATA=/path/of/the/corpus RUN=/path/of/the/run sbatch docs/slurm.sh
#SBATCH --job-name=vie
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# To the steps of the job two minutes before its end; torchrun hands it on to its ranks. USR1 would end torchrun itself,
# without `--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1`.
#SBATCH --signal=TERM@120
set -u

export OMP_NUM_THREADS=1
# torchrun's patience with ranks that finish their step and write it. PyTorch 2.12 and later read it; those before kill
# them after 30 seconds, whatever is said.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# A torchrun ends the ranks of its own node when one of them dies; srun has to end those of the others.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$MASTER:29500" \
  -m pretrain train --config kinetics400_resnet3d data.path="$DATA" run="$RUN"

# Only a run that was asked to stop leaves this file: what ends by a fault would end by it again.
if [ -e "$RUN/stopped" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
