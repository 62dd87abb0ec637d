#!/usr/bin/env bash
# Hands a script to the batch system and prints the job's id: submit.sh SCRIPT
set -euo pipefail
script=$1
# What the job needs stands in the script, as JSON.
need() { sed -n 's/^# properties = //p' "$script" | grep -o "\"$1\": [0-9]*" | tail -1 | grep -o '[0-9]*$'; }
threads=$(need threads) megabytes=$(need mem_mb) minutes=$(need runtime)

# Of these, keep the line of your batch system, and remove what follows them. All pass the environment on.
# SGE     exec qsub -terse -V -cwd -pe smp "$threads" -l "h_vmem=$((megabytes / threads))M,h_rt=$((minutes * 60))" "$script"
# PBS     exec qsub -V -l "select=1:ncpus=$threads:mem=${megabytes}mb,walltime=$((minutes * 60))" "$script"
# LSF     bsub -n "$threads" -M "${megabytes}MB" -W "$minutes" "$script" | grep -o '[0-9]\+'; exit

# No batch system: in the background, which keeps to no limits. The exit status is left for status.sh.
mkdir -p .snakemake/generic
setsid timeout "${minutes}m" bash -c '
    id=$(ps -o pgid= $$ | tr -d " ")
    bash "$1" >".snakemake/generic/$id.log" 2>&1 && status=0 || status=$?
    echo "$status" >".snakemake/generic/$id.exit"
' background "$script" </dev/null >/dev/null 2>&1 &
echo $!
