"""A result that is no longer what its job wrote is set aside, and a touched one is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceive.integrity import DAMAGED, record, set_aside, wanted
from perceive.job import hold_run, no_run


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A state folder whose one job wrote two outputs and a folder beside them."""
    (tmp_path / "graphs/deep").mkdir(parents=True)
    for name in ("a.json", "b.npy", "graphs/x.bin", "graphs/deep/y.bin"):
        (tmp_path / name).write_bytes(name.encode() * 50)
    record(tmp_path / "state", "rule", [tmp_path / "a.json", tmp_path / "b.npy"], [tmp_path / "graphs"])
    return tmp_path


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "state" not in path.relative_to(folder).parts
    }


WHOLE = {"a.json", "b.npy", "graphs/x.bin", "graphs/deep/y.bin"}


def test_what_is_whole_stays(made: Path) -> None:
    for path in (made / "a.json", made / "graphs/x.bin"):
        os.utime(path, ns=(1, 1))
    assert set_aside(made / "state") == [] and files(made) == WHOLE
    # The new date is known now: a later change of the content under it would be seen by the size alone.
    assert set_aside(made / "state") == []


@settings(max_examples=40)
@given(place=st.integers(0, 299), bit=st.integers(0, 7))
def test_any_turned_bit_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("bits")
    path = folder / "model.bin"
    path.write_bytes(bytes(range(100)) * 3)
    record(folder / "state", "rule", [path])
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(5, 5))
    (sentence,) = set_aside(folder / "state")
    assert "model.bin" in sentence and "rule" in sentence
    assert not path.exists() and path.with_name(f"model.bin{DAMAGED}").read_bytes() == content


@pytest.mark.parametrize("length", [0, 1, 200])
def test_a_file_cut_short_is_found(made: Path, length: int) -> None:
    path = made / "b.npy"
    path.write_bytes(path.read_bytes()[:length])
    assert len(set_aside(made / "state")) == 1
    assert files(made) == WHOLE - {"b.npy"} | {f"b.npy{DAMAGED}"}
    assert set_aside(made / "state") == []


def test_damage_beside_the_outputs_costs_them(made: Path) -> None:
    (made / "graphs/deep/y.bin").write_bytes(b"other")
    assert len(set_aside(made / "state")) == 1
    assert files(made) == {"graphs/x.bin", f"graphs/deep/y.bin{DAMAGED}"}


def test_a_loss_beside_the_outputs_costs_them(made: Path) -> None:
    (made / "graphs/x.bin").unlink()
    (sentence,) = set_aside(made / "state")
    assert "gone" in sentence and files(made) == {"graphs/deep/y.bin"}
    assert set_aside(made / "state") == []


@pytest.mark.parametrize("name", ["b.npy", "graphs/deep/y.bin"])
def test_outputs_are_wanted_until_the_job_ends_well(made: Path, name: str) -> None:
    outputs = [made / "a.json", made / "b.npy"]
    assert wanted(made / "state", {"rule"}) == []
    (made / name).write_bytes(b"other")
    for _ in range(2):
        set_aside(made / "state")
        assert wanted(made / "state", {"rule"}) == list(map(str, outputs))
        assert wanted(made / "state", {"another"}) == []
    for path in outputs:
        path.write_bytes(b"made again")
    (made / "graphs/deep/y.bin").write_bytes(b"made again")
    record(made / "state", "rule", outputs, [made / "graphs"])
    assert wanted(made / "state", {"rule"}) == []
    # What was set aside may be deleted.
    for path in made.rglob(f"*{DAMAGED}"):
        path.unlink()
    assert set_aside(made / "state") == [] and files(made) == WHOLE


def test_a_lost_output_is_left_to_snakemake(made: Path) -> None:
    (made / "a.json").unlink()
    assert set_aside(made / "state") == [] and files(made) == WHOLE - {"a.json"}


def test_a_damaged_note_is_forgotten(made: Path) -> None:
    (note,) = (made / "state/made").rglob("*.json")
    note.write_text("{")
    assert set_aside(made / "state") == [] and files(made) == WHOLE and not note.exists()


def test_nobody_looks_while_a_run_writes(tmp_path: Path) -> None:
    with no_run(tmp_path / "results") as quiet:
        assert quiet
        with no_run(tmp_path / "results") as other:
            assert other
    running = hold_run(tmp_path / "results")
    with no_run(tmp_path / "results") as quiet:
        assert not quiet
    with pytest.raises(BlockingIOError):
        hold_run(tmp_path / "results", patience=0.2)
    running.close()
    with no_run(tmp_path / "results") as quiet:
        assert quiet
        with pytest.raises(BlockingIOError):
            hold_run(tmp_path / "results", patience=0.2)
    hold_run(tmp_path / "results").close()
