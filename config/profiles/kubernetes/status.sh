#!/usr/bin/env bash
# Says of a job: running, success or failed.
set -euo pipefail
ended='{.metadata.name} {.status.conditions[?(@.status=="True")].type}'
# A cluster that does not answer says nothing about the job.
found=$(kubectl get job "$1" --ignore-not-found -o "jsonpath=$ended") || found=unknown
case $found in
    *Complete*) echo success ;;
    *Failed* | "") echo failed ;;
    *) echo running ;;
esac
