"""A checkpoint is whole and verified, or it is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fvar.training.checkpoint import Checkpoints


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    """Checkpoints of steps 1 and 2, whose tensor holds the step."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, {"weights": {"w": torch.full((1000,), float(step))}}, {"step": step})
    checkpoints.join()
    return checkpoints


def test_what_is_saved_is_read_back(saved: Checkpoints) -> None:
    loaded, note = saved.load()
    assert loaded is not None
    assert (loaded.step, loaded.state, note) == (2, {"step": 2}, "")
    assert torch.equal(loaded.tensors["weights"]["w"], torch.full((1000,), 2.0))


def test_saved_values_are_those_at_the_call_not_at_the_write(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    weight, noted = torch.zeros(1 << 20), [1]
    checkpoints.save(1, {"weights": {"w": weight}}, {"noted": noted})
    weight.fill_(7.0)
    noted.append(2)  # while the thread is still at the tensors
    checkpoints.join()
    loaded, _ = checkpoints.load()
    assert loaded is not None
    assert loaded.tensors["weights"]["w"].eq(0).all()
    assert loaded.state == {"noted": [1]}


def test_only_the_last_ones_are_kept(saved: Checkpoints) -> None:
    saved.save(3, {"weights": {"w": torch.zeros(1)}}, {})
    saved.join()
    assert saved.steps == [2, 3]


def test_the_best_one_stays_however_old_it_is(saved: Checkpoints) -> None:
    for step, best in ((3, 1), (4, 1), (5, 1), (6, 6), (7, 6), (8, 6)):
        saved.save(step, {"weights": {"w": torch.zeros(1)}}, {}, best=best)
        saved.join()
        assert saved.steps == sorted({best, step - 1, step})
    assert saved.read(6).step == 6


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x10
    path.write_bytes(body)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_previous_checkpoint_is_used_when_a_file_is_damaged(
    saved: Checkpoints, name: str, damage: Callable[[Path], None]
) -> None:
    damage(saved.folder / "step-00000002" / name)
    loaded, note = saved.load()
    assert loaded is not None
    assert loaded.step == 1
    assert note.startswith("checkpoint 2 is damaged (")
    assert note.endswith("; continued from 1")


def test_training_starts_over_when_every_checkpoint_is_damaged(saved: Checkpoints) -> None:
    for step in saved.steps:
        truncate(saved.folder / f"step-{step:08d}" / "weights.safetensors")
    loaded, note = saved.load()
    assert loaded is None
    assert "checkpoint 2 is damaged" in note
    assert note.endswith("checkpoint 1 is damaged (weights.safetensors fails its checksum); started over")


def test_manifest_of_another_step_is_refused(saved: Checkpoints) -> None:
    (saved.folder / "step-00000002").rename(saved.folder / "step-00000009")
    loaded, note = saved.load()
    assert loaded is not None
    assert loaded.step == 1
    assert "checkpoint 9 is damaged (manifest.json does not belong to it)" in note


def test_half_written_checkpoint_is_not_seen(saved: Checkpoints) -> None:
    (saved.folder / "step-00000002").rename(saved.folder / ".writing-00000002")
    assert saved.steps == [1]


def test_write_error_is_raised_and_leaves_no_trace(saved: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fvar.training.checkpoint.save_file", no_room)
    saved.save(3, {"weights": {"w": torch.zeros(1)}}, {})
    with pytest.raises(OSError, match="No space left"):
        saved.join()
    assert sorted(path.name for path in saved.folder.iterdir()) == ["step-00000001", "step-00000002"]


def test_nothing_to_load_is_not_an_error(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent", keep=1).load() == (None, "")
