#!/usr/bin/env bash
# Cancels the jobs with these names.
kubectl delete job --ignore-not-found --wait=false "$@"
