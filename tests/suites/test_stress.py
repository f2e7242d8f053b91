"""stress-ng's filesystem class with --verify, and fio with checksums in every block."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

import pytest

from tests.suites.conftest import Judge
from tests.suites.outcomes import Known, Outcomes, Result, Verdict
from tests.suites.places import LONG_LIMIT_S, Place, run

# Those whose round takes seconds on a mount whose every name waits for a bucket.
SHORT = (
    *("access", "chown", "dir", "dup", "fcntl", "flock", "fstat", "getdent", "handle", "hdd", "io", "locka"),
    *("lockf", "lockofd", "mknod", "rename", "touch", "utime"),
)  # fmt: skip
# Rounds are counted, not seconds. A stressor that needs longer than this for one has verified nothing.
ROUND_S = 240
# Instead of the gigabyte that some stressors take by default.
SMALLER = ("fallocate", "hdd", "iomix", "sync-file")
SMALLER_BYTES = "16m"
# These do not end by their rounds, and run for this long: fpunch counts them at its end, inode-flags never does (not on
# a local disk either, so it is skipped there and here).
UNCOUNTED = ("fpunch", "inode-flags")
UNCOUNTED_S = 20

KNOWN = (
    Known("fiemap", "the kernel has no FS_IOC_FIEMAP for FUSE file systems; SEEK_DATA and SEEK_HOLE tell the same"),
    Known(
        "link",
        "a matter of speed: a round makes thousands of links to one file; no lease covers so many, so each link waits"
        " for a record of its own, and a busy machine may not finish them in time",
        exact=False,
    ),
)


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing: apt-get install {name}"
    return found


def stressors() -> list[str]:
    """All of the class, as this stress-ng has them."""
    ended = subprocess.run([program("stress-ng"), "--class", "filesystem?"], capture_output=True, text=True)
    _, _, names = (ended.stdout + ended.stderr).partition("stressors:")
    assert names, f"stress-ng does not tell its stressors: {ended}"
    return names.split()


def stress(place: Place, names: Sequence[str], rounds: int = 1) -> dict[str, Result]:
    """Run these side by side until each has made so many rounds."""
    directory = place.fresh("stress-ng")
    limit_s = UNCOUNTED_S if set(names) & set(UNCOUNTED) else ROUND_S
    command = [program("stress-ng"), "--verify", "--metrics", "--oomable", "--timeout", f"{limit_s}s"]
    for name in names:
        command += [f"--{name}", "1", f"--{name}-ops", str(rounds)]
        command += [f"--{name}-bytes", SMALLER_BYTES] if name in SMALLER else []
    _, said = run([*command, "--temp-path", str(directory)], directory, limit_s=limit_s + 300)
    return {name: verdict_of(name, said) for name in names}


def verdict_of(name: str, said: str) -> Result:
    """What stress-ng's output says of one stressor. A stressor that has not finished one round has verified nothing."""
    bad = re.findall(rf"^stress-ng: (?:fail|error): .*\b{name}\b.*", said, re.MULTILINE)
    skipped = re.findall(rf"^stress-ng: .*\b{name}: .*(?:skipping|not supported).*", said, re.MULTILINE)
    # bind-mount, which stress-ng runs only when told that the machine may hang; binderfs, which counts no rounds.
    skipped += re.findall(
        rf"^.*stress-ng: .*(?:disabled '{name}'|unrecognized option '--{name}-ops').*", said, re.MULTILINE
    )
    rounds = re.search(rf"^stress-ng: metrc: +\[\d+\] {name} +(\d+) ", said, re.MULTILINE)
    if bad:
        return Result(Verdict.FAILED, bad[0])
    if skipped:
        return Result(Verdict.SKIPPED, skipped[0])
    if rounds is None:
        return Result(Verdict.FAILED, f"no result: {said[-500:]}")
    if rounds[1] == "0":
        return Result(Verdict.SKIPPED, "it did not finish a round")
    return Result(Verdict.PASSED, f"{rounds[1]} rounds")


def one_by_one(place: Place) -> Outcomes:
    outcomes: dict[str, Result] = {}
    for name in stressors():
        outcomes |= stress(place, [name])
    return outcomes


def fio(place: Place, size: str, files: int, jobs: int) -> Outcomes:
    """Writes of random mixed sizes at random places, over each other too; every block carries its own checksum, which
    is read back while writing goes on and again at the end. One job maps its file, one appends to it."""
    directory = place.fresh("fio")
    common = [
        *("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", f"--size={size}", "--group_reporting"),
        *(f"--directory={directory}", f"--nrfiles={files}", "--randseed=4"),
    ]  # fmt: skip
    mixed = "--bssplit=512/10:4k/40:7k/10:64k/30:1m/10"
    outcomes = {}
    for name, options in {
        "random": [mixed, "--rw=randrw", "--ioengine=psync", "--verify_backlog=64", "--fsync=64", f"--numjobs={jobs}"],
        "overwritten": [
            mixed,
            "--rw=randwrite",
            "--norandommap",
            "--ioengine=psync",
            "--overwrite=1",
            f"--numjobs={jobs}",
        ],
        "mapped": ["--rw=randwrite", "--ioengine=mmap", "--bsrange=4k-64k", "--fsync=32"],
        "appended": [mixed, "--rw=write", "--ioengine=sync", "--fsync_on_close=1", "--file_append=1"],
        "vectored": [mixed, "--rw=randwrite", "--ioengine=pvsync2", "--verify_backlog=32"],
        "asynchronous": [mixed, "--rw=randwrite", "--ioengine=libaio", "--iodepth=16"],
    }.items():
        code, said = run([program("fio"), f"--name={name}", *common, *options], directory, limit_s=LONG_LIMIT_S)
        bad = code != 0 or "verify:" in said
        outcomes[name] = Result(Verdict.FAILED if bad else Verdict.PASSED, said[-500:] if bad else "")
    return outcomes


def test_verdicts_are_read_from_what_stress_ng_prints() -> None:
    said = """\
stress-ng: fail:  [8] fsize: fallocate failed at offset 17592186044414 with unexpected error: 5 (Input/output error)
stress-ng: info:  [9] fiemap: FS_IOC_FIEMAP not supported on the file system, skipping stressor, filesystem type: fuse
stress-ng: metrc: [7] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s CPU used per
stress-ng: metrc: [7] chmod               117      1.00      0.00      0.06       116.53        1708.73         6.82
stress-ng: metrc: [7] fsize                 1      1.00      0.00      0.06       116.53        1708.73         6.82
stress-ng: metrc: [7] fiemap                0      0.06      0.00      0.00         0.00           0.00         1.46
stress-ng: metrc: [7] xattr                 0      2.03      0.01      0.00         0.00           0.00         0.41
stress-ng: info:  [7] disabled 'bind-mount' as it may hang or reboot the machine (enable it with --pathological)
/usr/bin/stress-ng: unrecognized option '--binderfs-ops'
"""
    want = {
        "chmod": "passed", "fsize": "failed", "fiemap": "skipped", "xattr": "skipped", "gone": "failed",
        "bind-mount": "skipped", "binderfs": "skipped",
    }  # fmt: skip
    assert {name: verdict_of(name, said).verdict.value for name in want} == want


def test_stress_ng_short(judge: Judge) -> None:
    judge("stress-ng", lambda place: stress(place, SHORT), known=KNOWN)


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_LIMIT_S)
def test_stress_ng_full(judge: Judge) -> None:
    judge("stress-ng", one_by_one, full=True, known=KNOWN)


def test_fio_short(judge: Judge) -> None:
    judge("fio", lambda place: fio(place, "2m", 2, 1))


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_LIMIT_S)
def test_fio_full(judge: Judge) -> None:
    judge("fio", lambda place: fio(place, "128m", 8, 3), full=True)
