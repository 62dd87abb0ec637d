"""The bundle: everything that answers, in one folder that is checked before it is believed.

::

    manifest.json             what is here, and what it needs; sha256 of every other file
    config.json               the same graphs as a model repository of OpenVINO Model Server
    models/NAME_PRECISION/1/  model.xml, model.bin
    tokenizers/LANGUAGE/      tokenizer.json, encoder.json
    lexicons/                 word lists, VADER's and licensed ones among them
    features/                 anchors and projection, .npy
    taxonomy.tsv              paths of the hierarchies, where there are any

The bundle's id is the sha256 of the manifest without it, so that two bundles with one id are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perceive.io import file_sha256, read_json, write_json

MANIFEST, REPOSITORY_CONFIG = "manifest.json", "config.json"
FORMAT = 1


class BundleError(ValueError):
    """The folder is no bundle, or not the one that was built."""


def reads_text(graph: str) -> bool:
    """Whether a graph of a bundle reads token ids: the one for the texts, or another language's encoder."""
    return graph == "text" or graph.startswith("encoder_")


def bundle_id(manifest: Mapping[str, Any]) -> str:
    """Hex sha256 of a manifest, its own ``bundle`` left out."""
    content = {key: value for key, value in manifest.items() if key != "bundle"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def write_manifest(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """List and hash the files of a folder, and write the manifest beside them.

    Returns
    -------
    dict
        The manifest.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        **content,
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
    }
    manifest = {"bundle": bundle_id(manifest), **manifest}
    write_json(folder / MANIFEST, manifest)
    return manifest


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes
    ----------
    folder : Path
    manifest : dict
    precision : str
        That of the graphs to load.
    """

    folder: Path
    manifest: dict[str, Any]
    precision: str

    @classmethod
    def open(cls, folder: str | Path, precision: str | None = None) -> Bundle:
        """Read the manifest, and check every file that this precision reads.

        Parameters
        ----------
        folder : str or Path
        precision : str, optional
            Out of `PRECISIONS`; by default the smallest that passed the bundle's own parity.

        Raises
        ------
        BundleError
            If the folder is no bundle, of another format, incomplete, or changed since it was built.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; name the folder that was built")
        try:
            manifest = read_json(path)
        except ValueError as error:
            raise BundleError(f"{path} is damaged ({error}); copy the bundle again") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BundleError(f"{path} is not of format {FORMAT}, which this version reads; build it again")
        if manifest.get("bundle") != bundle_id(manifest):
            raise BundleError(f"{path} was changed after the bundle was built; copy the bundle again")
        available = manifest["precision"]["available"]
        chosen = precision or manifest["precision"]["default"]
        if chosen not in available:
            raise BundleError(f"the bundle has no precision {chosen}; it has {', '.join(available)}")
        bundle = cls(folder, manifest, chosen)
        for name, expected in manifest["files"].items():
            if bundle._reads(name):
                bundle._check(name, expected)
        return bundle

    def _reads(self, name: str) -> bool:
        if not name.startswith("models/"):
            return True
        return name.split("/")[1].endswith(f"_{self.precision}")

    def _check(self, name: str, expected: str) -> None:
        path = self.folder / name
        if not path.is_file():
            raise BundleError(f"{path} is missing; copy the bundle again")
        if file_sha256(path) != expected:
            raise BundleError(
                f"{path} is not the file that the bundle was built with (its sha256 differs): damaged, or of "
                "another bundle; copy the whole bundle again"
            )

    @property
    def id(self) -> str:
        return str(self.manifest["bundle"])

    def graph(self, name: str) -> Path:
        """The IR of a graph, in the bundle's precision."""
        return self.folder / "models" / f"{name}_{self.precision}" / "1" / "model.xml"

    def hints(self, name: str, device: str = "CPU") -> dict[str, str]:
        """Options to compile a graph with: a graph's own ones are proven on the CPU, and hold there."""
        hints: dict[str, dict[str, str]] = self.manifest["compile"]
        own = hints.get(f"{name}_{self.precision}") if device == "CPU" else None
        return dict(own or hints["default"])

    def compiled_with(self, options: Mapping[str, str]) -> Bundle:
        """The same bundle, its graphs that read text compiled with other options (none: the default)."""
        hints = {"default": self.manifest["compile"]["default"]}
        if options:
            files = (Path(name).parts for name in self.manifest["files"] if self._reads(name))
            names = {parts[1].rsplit("_", 1)[0] for parts in files if parts[0] == "models"}
            hints |= {f"{name}_{self.precision}": dict(options) for name in names if reads_text(name)}
        return replace(self, manifest={**self.manifest, "compile": hints})
