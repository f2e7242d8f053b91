"""The workloads, grouped by what they share: one scenario is one fresh volume, its steps follow one another on it.

A step that is not wanted but makes what a later one needs is done without being measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from bench import inputs
from bench.stage import Stage

SMALL_FILES = 2_000
FOUND_FILES = 10_000
CAT_FILES = 1_000
TURNS = 100
WRITERS = 4
WRITER_FILES = 250
FOREIGN_DIRECTORIES = 20
FOREIGN_FILES = 20
FOUND_DIRECTORIES = 500
IDLE_S = 20.0
_BLOCK = 4096


@dataclass(frozen=True)
class Scenario:
    """`steps`: workload -> what it is, in the order in which they run."""

    name: str
    steps: dict[str, str]
    play: Callable[[Stage], None]


def _tree(stage: Stage) -> None:
    count = stage.sized(inputs.FILES, least=20)
    archive, manifest, names = stage.inputs.archive(count)
    tree = stage.a("tree")
    parity = ("verify", {"folder": stage.b("tree"), "manifest": str(manifest), "ignored": []})
    stage.step("untar", count, "files", "untar", {"archive": str(archive), "target": tree}, parity=parity)
    read = stage.sized(CAT_FILES, least=4)
    if stage.needs("cat"):
        stage.cold()
        stage.step("cat", read, "files", "cat", {"folder": tree, "names": names[:read]})
    if stage.needs("cat-scattered"):
        stage.cold()
        scattered = random.Random(inputs.SEED).sample(names, read)
        stage.step("cat-scattered", read, "files", "cat", {"folder": tree, "names": scattered})
    if stage.needs("rm"):
        stage.cold()
        gone = ("verify_absence", {"folder": stage.b("tree")})
        stage.step("rm", count, "files", "remove", {"folder": tree}, parity=gone)


def _clone(stage: Stage) -> None:
    count = stage.sized(inputs.CLONED_FILES, least=20)
    repository, manifest = stage.inputs.repository(count)
    arguments = {"repository": str(repository), "target": stage.a("clone")}
    parity = ("verify_clone", {"folder": stage.b("clone"), "manifest": str(manifest)})
    stage.step("clone", count, "files", "clone", arguments, parity=parity)


def _small(size: int, suffix: str) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        count = stage.sized(SMALL_FILES, least=10)
        manifest = stage.inputs.small(count, size)
        place = {"folder": stage.a("small"), "count": count}
        parity = ("verify", {"folder": stage.b("small"), "manifest": str(manifest), "ignored": []})
        stage.step(f"create{suffix}", count, "files", "create", {**place, "size": size}, parity=parity)
        for action in ("stat", "readdir"):
            if stage.needs(f"{action}{suffix}"):
                stage.step(f"{action}{suffix}", count, "files", action, place)
        if stage.needs(f"unlink{suffix}"):
            empty = stage.inputs.small(0, size)
            gone = ("verify", {"folder": stage.b("small"), "manifest": str(empty), "ignored": []})
            stage.step(f"unlink{suffix}", count, "files", "unlink", place, parity=gone)

    return play


def _find(stage: Stage) -> None:
    directories, each = stage.sized(FOUND_FILES // 100), 100
    manifest = stage.inputs.small(each, 0, directories)
    parity = ("verify", {"folder": stage.b("many"), "manifest": str(manifest), "ignored": []})
    stage.prepare("many", parity, folder=stage.a("many"), directories=directories, each=each, size=0)
    stage.cold()
    expected = 1 + directories * (1 + each)
    stage.step("find", directories * each, "files", "find", {"folder": stage.a("many"), "expected": expected})


def _dd(stage: Stage) -> None:
    size = stage.sized(inputs.DD_BYTES // _BLOCK) * _BLOCK
    source, manifest = stage.inputs.block(size)
    parity = ("verify", {"folder": stage.b("dd"), "manifest": str(manifest), "ignored": []})
    stage.step("dd", size / 1e6, "MB", "dd", {"source": str(source), "folder": stage.a("dd")}, parity=parity)


def _alternate(stage: Stage) -> None:
    turns = stage.sized(TURNS, least=4)
    places = {"here": stage.a("turns"), "there": stage.b("turns")}
    stage.step("alternate", turns, "turns", "alternate", {**places, "turns": turns}, both=True)


def _writers(stage: Stage) -> None:
    count = stage.sized(WRITER_FILES, least=5)
    # Two write on each mount; afterwards each mount reads what the other wrote.
    folders = {number: (stage.a, stage.b)[number % 2](f"w{number}") for number in range(WRITERS)}
    arguments = {"folders": list(folders.values()), "count": count, "size": _BLOCK}
    manifests = str(stage.inputs.small(count, _BLOCK))
    others = [(stage.b, stage.a)[number % 2](f"w{number}") for number in range(WRITERS)]
    parity = ("verify_all", {"folders": others, "manifest": manifests})
    stage.step("writers", WRITERS * count, "files", "writers", arguments, parity=parity, both=True)


def _foreign(stage: Stage) -> None:
    directories = stage.sized(FOREIGN_DIRECTORIES, least=3)
    places = {"here": stage.a("foreign"), "there": stage.b("foreign")}
    arguments = {**places, "directories": directories, "each": FOREIGN_FILES, "size": _BLOCK}
    stage.step("foreign", directories, "directories", "foreign", arguments, both=True)


def _foreign_find(stage: Stage) -> None:
    directories = stage.sized(FOUND_DIRECTORIES, least=5)
    places = {"here": stage.a("found"), "there": stage.b("found")}
    arguments = {**places, "directories": directories, "each": 2}
    stage.step("foreign-find", directories, "directories", "foreign_find", arguments, both=True)


def _idle(stage: Stage) -> None:
    stage.prepare("idle", seconds=3.0)
    stage.step("idle", IDLE_S, "s", "idle", {"seconds": IDLE_S})


def _steps(suffix: str, what: str) -> dict[str, str]:
    return {
        f"create{suffix}": f"create {SMALL_FILES:,} files {what}",
        f"stat{suffix}": "stat of each",
        f"readdir{suffix}": "one listing of them",
        f"unlink{suffix}": "unlink of each",
    }


SCENARIOS = (
    Scenario(
        "tree",
        {
            "untar": f"untar of {inputs.FILES:,} files, 70 MB",
            "cat": f"cold cat of {CAT_FILES:,} of them, directory by directory",
            "cat-scattered": f"cold cat of {CAT_FILES:,} of them, scattered",
            "rm": "rm -rf of them, from a cold mount",
        },
        _tree,
    ),
    Scenario("clone", {"clone": f"git clone, {inputs.CLONED_FILES:,} files"}, _clone),
    Scenario("empty", _steps("-empty", "without content"), _small(0, "-empty")),
    Scenario("4k", _steps("-4k", "of 4 KiB"), _small(_BLOCK, "-4k")),
    Scenario("find", {"find": f"cold find over {FOUND_FILES:,} files"}, _find),
    Scenario("dd", {"dd": f"dd bs=4k, {inputs.DD_BYTES >> 20} MiB into a new file"}, _dd),
    Scenario("alternate", {"alternate": f"two mounts, {TURNS} turns in one directory"}, _alternate),
    Scenario(
        "writers",
        {"writers": f"{WRITERS} writers, {WRITERS} directories, two mounts, {WRITER_FILES} files each"},
        _writers,
    ),
    Scenario(
        "foreign",
        {"foreign": f"write and foreign first read of {FOREIGN_DIRECTORIES} directories, 20 files each"},
        _foreign,
    ),
    Scenario(
        "foreign-find",
        {"foreign-find": f"the other mount's find over {FOUND_DIRECTORIES} new directories"},
        _foreign_find,
    ),
    Scenario("idle", {"idle": f"nothing, for {IDLE_S:.0f} s"}, _idle),
)
WORKLOADS = {workload: what for scenario in SCENARIOS for workload, what in scenario.steps.items()}
