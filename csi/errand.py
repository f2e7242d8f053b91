"""Errands: what the controller does in a bucket, each in a process of its own: credentials come with each request.

`s3vfs` takes credentials from the environment, and one process has one. The errand and its answer are lines of JSON on
stdin and stdout; credentials are never there, nor in arguments: they are the process's environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from csi.marker import Capacity, Marker
from csi.refusals import Code, Refusal
from csi.volume_id import Location

# Each is a Python of its own, of 60 to 100 MB: the rest waits.
PARALLEL = 4
_room = threading.BoundedSemaphore(PARALLEL)

# Longer than any sidecar waits (their default is 10 to 15 s): the work goes on meanwhile, the next call finds it done.
TIMEOUT_S = 300.0


def process_environment(credentials: Mapping[str, str]) -> dict[str, str]:
    """This process's environment; with `credentials` instead of every AWS setting of its own, where there are any."""
    inherited = dict(os.environ)
    if credentials:
        inherited = {name: value for name, value in inherited.items() if not name.startswith("AWS_")}
        inherited["AWS_EC2_METADATA_DISABLED"] = "true"
    return inherited | dict(credentials)


def run_errand(name: str, credentials: Mapping[str, str], **arguments: Any) -> Any:
    """Its result. Blocks. Raises Refusal with the errand's own code and words."""
    command = [sys.executable, "-P", "-m", "csi.errand"]
    text = json.dumps({"errand": name, "arguments": arguments})
    try:
        with _room:
            done = subprocess.run(
                command,
                input=text,
                capture_output=True,
                text=True,
                env=process_environment(credentials),
                timeout=TIMEOUT_S,
                start_new_session=True,
            )
    except subprocess.TimeoutExpired:
        raise Refusal(Code.DEADLINE_EXCEEDED, f"{name} took longer than {TIMEOUT_S:.0f} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise Refusal(Code.INTERNAL, f"{name} ended with exit code {done.returncode}: {done.stderr[-500:]}") from None
    if "refused" in answer:
        raise Refusal(Code(answer["refused"]), answer["message"])
    return answer["result"]


# -- the controller's side --------------------------------------------------------------------------------------------


def create(credentials: Mapping[str, str], folder: Location, leaf: str, wanted: Marker, capacity: Capacity) -> Marker:
    """See provision.create."""
    return Marker(
        **run_errand(
            "create",
            credentials,
            folder=asdict(folder),
            leaf=leaf,
            wanted=asdict(wanted),
            capacity=asdict(capacity),
        )
    )


def delete(credentials: Mapping[str, str], folder: Location, leaf: str) -> None:
    """See provision.delete."""
    run_errand("delete", credentials, folder=asdict(folder), leaf=leaf)


def look(credentials: Mapping[str, str], folder: Location, leaf: str) -> Marker:
    """See provision.look."""
    return Marker(**run_errand("look", credentials, folder=asdict(folder), leaf=leaf))


def look_at_volume(credentials: Mapping[str, str], location: Location) -> None:
    """See provision.look_at_volume."""
    run_errand("look_at_volume", credentials, location=asdict(location))


def expand(credentials: Mapping[str, str], folder: Location, leaf: str, capacity: Capacity) -> Marker:
    """See provision.expand."""
    return Marker(**run_errand("expand", credentials, folder=asdict(folder), leaf=leaf, capacity=asdict(capacity)))


def list_folder(
    credentials: Mapping[str, str], folder: Location, start_after: str, limit: int
) -> tuple[list[tuple[str, Marker]], str]:
    """See provision.list_folder."""
    found, after = run_errand("list", credentials, folder=asdict(folder), start_after=start_after, limit=limit)
    return [(leaf, Marker(**marker)) for leaf, marker in found], after


# -- the errand's side ------------------------------------------------------------------------------------------------


def _perform(name: str, arguments: dict[str, Any]) -> Any:
    import trio  # late, with provision: the controller's process needs neither

    from csi import provision

    place = Location(**(arguments.get("folder") or arguments["location"]))
    leaf = arguments.get("leaf", "")
    capacity = Capacity(**arguments.get("capacity", {}))
    if name == "delete":
        return provision.delete(place, leaf)
    if name == "look_at_volume":
        return trio.run(provision.look_at_volume, place)
    if name == "list":
        found, after = trio.run(provision.list_folder, place, arguments["start_after"], arguments["limit"])
        return [[(leaf, asdict(marker)) for leaf, marker in found], after]
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: trio.run(provision.create, place, leaf, Marker(**arguments["wanted"]), capacity),
        "look": lambda: trio.run(provision.look, place, leaf),
        "expand": lambda: trio.run(provision.expand, place, leaf, capacity),
    }
    return asdict(calls[name]())


def main() -> int:
    """One errand: from stdin to stdout."""
    from csi.refusals import refusal_of
    from s3vfs.cli import explain

    errand = json.load(sys.stdin)
    try:
        answer = {"result": _perform(errand["errand"], errand["arguments"])}
    except Refusal as refusal:
        answer = {"refused": refusal.code.value, "message": refusal.message}
    except (Exception, BaseExceptionGroup) as error:
        refusals = [leaf for leaf in _leaves(error) if isinstance(leaf, Refusal)]
        line, code = explain(error)
        first = refusals[0] if refusals else refusal_of(code, line)
        answer = {"refused": first.code.value, "message": first.message}
    json.dump(answer, sys.stdout)
    return 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


if __name__ == "__main__":
    sys.exit(main())
