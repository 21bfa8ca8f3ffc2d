"""Not now or never: every complaint of sbatch, and every error of the system, is one of the two."""

from __future__ import annotations

import errno

import pytest

from studies.engine.backends.answers import refusal, trouble

POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize(
    "complaint",
    [
        f"QOSMaxSubmitJobPerUserLimit; {POLICY}",
        f"AssocMaxSubmitJobLimit; {POLICY}",
        f"AssocGrpSubmitJobsLimit; {POLICY}",
        POLICY,
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Batch job submission failed: Invalid job array specification",
        f"QOSMaxJobsPerUserLimit; {POLICY}",
        f"AssocGrpJobsLimit; {POLICY}",
        f"QOSGrpSubmitJobsLimit; {POLICY}",
    ],
)
def test_a_limit_on_jobs_is_tried_with_fewer(complaint: str) -> None:
    answer = refusal(complaint)
    assert (answer.never, answer.fewer, answer.unsure) == (False, True, False)


@pytest.mark.parametrize(
    "complaint",
    [
        "Batch job submission failed: Required partition not available (inactive or drain)",
        "Batch job submission failed: Required node not available (down, drained or reserved)",
        "Batch job submission failed: Requested reservation not usable now",
        "Unable to contact slurm controller (connect failure)",
        "Unable to allocate resources: Requested operation is presently disabled",
        "Batch job submission failed: Failed to connect to authentication agent",
        f"AssocGrpCPUMinutesLimit; {POLICY}",
        "Batch job submission failed: I/O error writing script/environment to file: No space left on device",
        "Batch job submission failed: Job dependency problem",
        "Batch job submission failed: Requested partition configuration not available now",
        "Batch job submission failed: Unspecified error",
        "Batch job submission failed: Incompatible versions of client and server code",
        "resolve_ctls_from_dns_srv: res_nsearch error: Unknown host; Could not establish a configuration source",
        "fatal: Unable to process configuration file",
        "fork: Cannot allocate memory",
        "Batch job submission failed: Transport endpoint is not connected",
        "Slurm backup controller in standby mode",
    ],
)
def test_a_state_of_the_cluster_is_waited_for(complaint: str) -> None:
    answer = refusal(complaint)
    assert (answer.never, answer.fewer, answer.unsure) == (False, False, False)


@pytest.mark.parametrize(
    "complaint",
    [
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch gave no answer for 50 s",
        "sbatch answered with no readable id: 'welcome'",
    ],
)
def test_a_lost_answer_may_have_come_through(complaint: str) -> None:
    answer = refusal(complaint)
    assert (answer.never, answer.unsure) == (False, True)


@pytest.mark.parametrize(
    "complaint",
    [
        "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
        "unrecognized option '--nonsense'",
        f"QOSMaxWallDurationPerJobLimit; {POLICY}",
        f"QOSMaxGRESPerJob; {POLICY}",
        f"QOSMaxCpuPerJobLimit; {POLICY}",
        f"AssocMaxNodePerJobLimit; {POLICY}",
    ],
)
def test_a_wrong_request_is_never_repeated(complaint: str) -> None:
    assert refusal(complaint).never
    assert refusal(complaint, proven=True).never


@pytest.mark.parametrize(
    "complaint",
    [
        "invalid partition specified: nowhere",
        "Batch job submission failed: Invalid partition name specified",
        "Batch job submission failed: Invalid account or account/partition combination specified",
        "Batch job submission failed: Invalid qos specification",
        "Batch job submission failed: Invalid generic resource (gres) specification",
        "Batch job submission failed: Requested node configuration is not available",
        "Batch job submission failed: User's group not permitted to use this partition",
        "Batch job submission failed: Access/permission denied",
        "Batch job submission failed: Invalid user id",
    ],
)
def test_what_was_taken_before_is_not_the_requests_fault(complaint: str) -> None:
    """Nodes in repair, an accounting that restarts, a directory of users that does not answer."""
    assert refusal(complaint).never
    assert not refusal(complaint, proven=True).never


def test_an_unknown_complaint_is_the_requests_fault_only_until_the_like_was_taken() -> None:
    assert refusal("the moon is full").never
    assert not refusal("the moon is full", proven=True).never


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EMFILE])
def test_a_disk_that_fails_is_waited_for(number: int) -> None:
    answer = trouble(OSError(number, "so", "/results/cells.json"))
    assert not answer.never
    assert "/results/cells.json" in answer.reason


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENOTDIR])
def test_a_wrong_path_is_not(number: int) -> None:
    assert trouble(OSError(number, "so", "x")).never
