"""OpenVINO IR from trained models, and the proofs that it answers as they do."""

PRECISIONS = ("fp32", "fp16", "int8")
"""From the exact to the smallest."""
