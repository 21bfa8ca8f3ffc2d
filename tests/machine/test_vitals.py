"""The load of a machine, read from /proc and from a driver."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from fvar.machine import vitals


def machine(folder: Path, user: int, idle: int) -> None:
    (folder / "stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")
    (folder / "meminfo").write_text("MemTotal: 4096000 kB\nMemFree: 1 kB\nMemAvailable: 1024000 kB\n")


def test_the_processors_share_is_that_of_the_time_since_the_last_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "PROC", str(tmp_path))
    machine(tmp_path, 1000, 1000)
    measured = vitals.Vitals()
    machine(tmp_path, 1075, 1025)
    found = measured.read()
    assert found["cpu_utilization_percentage"] == 75.0
    assert found["system_memory_usage_megabytes"] == 3000.0
    assert found["system_memory_usage_percentage"] == 75.0
    machine(tmp_path, 1075, 1125)
    assert measured.read()["cpu_utilization_percentage"] == 0.0


def test_gpus_are_read_where_their_library_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("pynvml")
    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetMemoryInfo": lambda device: types.SimpleNamespace(used=3 << 30),
        "nvmlDeviceGetUtilizationRates": lambda device: types.SimpleNamespace(gpu=91),
    }
    vars(library).update(answers)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    found = vitals.Vitals().read()
    assert found["gpu_0_utilization_percentage"] == 91.0
    assert found["gpu_0_memory_usage_megabytes"] == 3072.0


def test_what_cannot_be_read_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "PROC", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert vitals.Vitals().read() == {}
