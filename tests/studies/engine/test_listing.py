"""What SLURM's clients print is read as it was meant, whatever stands around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.engine.backends.listing import Entry, accounts, expand, queue, states, submitted_id

WAVE = "fvar-var-0123456789ab"


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("12\n", "12"),
        ("12;loopback\n", "12"),
        ("Submitted batch job 12\n", "12"),
        ("Submitted batch job 12 on cluster gpu\n", "12"),
        ("Your last job 12 waited 3 hours\n13\n", "13"),
        ("13\nYour last job 12 waited 3 hours\n", "13"),
        ("Your last job 12 waited 3 hours\n", ""),
        ("*** maintenance on 2026-12-01 ***\nwelcome\n", ""),
        ("", ""),
    ],
)
def test_only_a_whole_line_is_the_id_of_a_new_job(text: str, job: str) -> None:
    assert submitted_id(text) == job


@pytest.mark.parametrize(
    ("text", "places"),
    [("3", [3]), ("0-5%6", [0, 1, 2, 3, 4, 5]), ("0-5,7%6", [0, 1, 2, 3, 4, 5, 7]), ("0-8:4,9", [0, 4, 8, 9])],
)
def test_a_range_names_its_members(text: str, places: list[int]) -> None:
    assert expand(text) == places


@pytest.mark.parametrize("text", ["", "a", "5-3", "1-", "0-9:0", "0-5,", "0-5,...", "0-99999999999"])
def test_what_is_not_a_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a range"):
        expand(text)


def written(places: list[int]) -> str:
    """The places as SLURM writes them: neighbours joined to ranges."""
    parts: list[list[int]] = []
    for place in places:
        if parts and place == parts[-1][1] + 1:
            parts[-1][1] = place
        else:
            parts.append([place, place])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


@given(st.sets(st.integers(0, 300), min_size=1), st.one_of(st.none(), st.integers(1, 64)))
def test_any_set_of_members_survives_being_written_as_ranges(places: set[int], limit: int | None) -> None:
    assert expand(written(sorted(places)) + ("" if limit is None else f"%{limit}")) == sorted(places)


def test_a_member_of_its_own_outdoes_the_range_whatever_the_order() -> None:
    rows = [f"500_[2-9%2]|PENDING|{WAVE}|None", f"500_0|FAILED|{WAVE}|None", f"500_2|RUNNING|{WAVE}|None"]
    for order in (rows, rows[::-1]):
        found = accounts("\n".join(order), [WAVE])
        assert found[WAVE, 0] == Entry("500_0", "FAILED", "None")
        assert (WAVE, 1) not in found
        assert found[WAVE, 2].state == "RUNNING"
        assert [found[WAVE, place].state for place in range(3, 10)] == ["PENDING"] * 7
        assert found[WAVE, 9].job_id == "500_9"


def test_a_row_of_the_array_as_a_whole_says_nothing_of_its_members() -> None:
    rows = [f"7|N/A|CANCELLED|{WAVE}|Resources", f"7|0|RUNNING|{WAVE}|None"]
    for order in (rows, rows[::-1]):
        assert queue("\n".join(order), [WAVE]) == {(WAVE, 0): Entry("7_0", "RUNNING", "None")}


def test_a_single_job_is_place_0() -> None:
    assert queue(f"8|N/A|PENDING|{WAVE}|Priority", [WAVE]) == {(WAVE, 0): Entry("8", "PENDING", "Priority")}
    assert accounts(f"8|COMPLETED|{WAVE}|None", [WAVE]) == {(WAVE, 0): Entry("8", "COMPLETED", "None")}


def test_who_cancelled_a_job_is_read() -> None:
    found = accounts(f"8_[0-1%6]|CANCELLED by 1000|{WAVE}|None\n9|CANCELLED|other|None", [WAVE, "other"])
    assert [found[WAVE, place].by for place in (0, 1)] == [1000, 1000]
    assert found["other", 0] == Entry("9", "CANCELLED", "None", None)


BANNERS = st.lists(
    st.one_of(
        st.sampled_from(["CLUSTER: x", "", "500_0|FAILED", "500_0", "|||||||", "** login node 3 | be nice | | | **"]),
        st.text(max_size=60).map(lambda text: text.replace("fvar", "")),
    ),
    max_size=5,
)


@given(BANNERS, BANNERS)
def test_foreign_lines_change_nothing(before: list[str], after: list[str]) -> None:
    def among(row: str) -> str:
        return "\n".join([*before, row, *after])

    assert queue(among(f"8|3|RUNNING|{WAVE}|None"), [WAVE]) == {(WAVE, 3): Entry("8_3", "RUNNING", "None")}
    assert accounts(among(f"8_3|FAILED|{WAVE}|None"), [WAVE]) == {(WAVE, 3): Entry("8_3", "FAILED", "None")}


def test_a_row_without_a_state_says_so_and_a_short_one_says_nothing() -> None:
    assert accounts(f"8_3||{WAVE}|", [WAVE]) == {(WAVE, 3): Entry("8_3", "", "")}
    assert accounts(f"8_3|COMPLETED|{WAVE}", [WAVE])[WAVE, 3].state == "COMPLETED"
    assert accounts("8_3|COMPLETED", [WAVE]) == {}


def test_a_listing_of_single_jobs_passes_over_a_banner() -> None:
    assert states("CLUSTER: x\nwelcome\n12 RUNNING\n13 COMPLETED\nyour job 12\n") == {
        "12": "RUNNING",
        "13": "COMPLETED",
    }
