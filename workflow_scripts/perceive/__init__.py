"""Perceive's library: leak-proof perception models from annotated reflections.

The modules know nothing of Snakemake: the thin scripts beside this package read a rule's inputs, call the
library, and write the rule's outputs.
"""
