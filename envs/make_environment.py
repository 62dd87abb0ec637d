"""Write envs/environment.yaml from the lock file, so that conda users get the very same versions."""

from pathlib import Path

HEAD = """\
# For those who use conda: conda env create -f envs/environment.yaml && conda activate perceive
# Written by `make lock`: the versions are those of requirements.lock.
name: perceive
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment(lock: str) -> str:
    """The environment file that installs exactly the pins of a lock file."""
    pins = [line for line in lock.splitlines() if line and not line.startswith("#")]
    return HEAD + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "environment.yaml").write_text(environment((folder / "requirements.lock").read_text()))
