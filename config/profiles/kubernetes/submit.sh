#!/usr/bin/env bash
# Hands a script to Kubernetes as a job, and prints the job's name: submit.sh SCRIPT
set -euo pipefail

# Your site: the image, the persistent volume claim, and where it is mounted, here and in the pods.
image=python:3.11
claim=perceive
volume=/mnt/perceive

script=$(realpath "$1")
# What the job needs stands in the script, as JSON.
need() { sed -n 's/^# properties = //p' "$script" | grep -o "\"$1\": [0-9]*" | tail -1 | grep -o '[0-9]*$' || echo 0; }

cards=$(need gpu)
gpu=$([ "$cards" = 0 ] || echo ", nvidia.com/gpu: \"$cards\"")

kubectl create -o name -f - <<EOF | sed 's#.*/##'
apiVersion: batch/v1
kind: Job
metadata:
  generateName: perceive-
  labels: {app: perceive}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: $(($(need runtime) * 60))
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels: {app: perceive}
    spec:
      restartPolicy: Never
      containers:
        - name: job
          image: "$image"
          command: [bash, "$script"]
          workingDir: "$PWD"
          env:
            - {name: PERCEIVE_RUN, value: "${PERCEIVE_RUN:-}"}
          envFrom:
            - secretRef: {name: perceive, optional: true}
          resources:
            requests: {cpu: "$(need threads)", memory: "$(need mem_mb)M"}
            limits: {memory: "$(need mem_mb)M"$gpu}
          volumeMounts:
            - {name: shared, mountPath: "$volume"}
      volumes:
        - name: shared
          persistentVolumeClaim: {claimName: "$claim"}
EOF
