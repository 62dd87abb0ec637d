"""What a bundle needs to answer: no torch, no LightGBM, no Snakemake."""
