"""Reads csi/deploy: its objects, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "csi" / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))

Object = dict[str, Any]
Name = tuple[str, str, str]  # kind, namespace ("" for what is in none), name

NODE: Name = ("DaemonSet", "s3vfs", "s3vfs-node")
CONTROLLER: Name = ("Deployment", "s3vfs", "s3vfs-controller")


def objects(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


OBJECTS = [(path, made) for path in FILES for made in objects(path)]
BY_NAME: dict[Name, Object] = {
    (made["kind"], made["metadata"].get("namespace", ""), made["metadata"]["name"]): made for _, made in OBJECTS
}


def kind(wanted: str) -> list[Object]:
    return [made for _, made in OBJECTS if made["kind"] == wanted]


def pod_specs() -> Iterator[tuple[str, str, Object]]:
    """(name, namespace, spec) of every pod, alone or from a template."""
    for name, made in BY_NAME.items():
        if made["kind"] in ("Pod", "Deployment", "DaemonSet"):
            yield name[2], name[1], pod_spec(name)


def pod_spec(name: Name) -> Object:
    spec: Object = BY_NAME[name]["spec"]
    return spec if name[0] == "Pod" else spec["template"]["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def named(spec: Object, name: str) -> Object:
    (found,) = [container for container in containers(spec) if container["name"] == name]
    return found


def argument(container: Object, name: str) -> str:
    """The value of --name=value."""
    (found,) = [word.partition("=")[2] for word in container["args"] if word.startswith(f"--{name}=")]
    return str(found)


def own_parameters(parameters: dict[str, str]) -> dict[str, str]:
    """Without those of the sidecars."""
    return {key: value for key, value in parameters.items() if not key.startswith("csi.storage.k8s.io/")}
