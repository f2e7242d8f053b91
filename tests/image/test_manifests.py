"""The manifests are what Kubernetes accepts, and agree with each other, with the image and with the driver.

Rendered, not run: no kubelet and no sidecar is here. What a schema and a comparison can show, these tests show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

import s3vfs
from csi.identity import DRIVER_NAME
from csi.parameters import environment_of, mount_flags, of_class, of_context, of_inline
from tests.image.manifests import (
    BY_NAME,
    CONTROLLER,
    DEPLOY,
    FILES,
    NODE,
    OBJECTS,
    argument,
    containers,
    kind,
    named,
    objects,
    own_parameters,
    pod_spec,
    pod_specs,
)

DRIVER = DRIVER_NAME
IMAGE = f"s3vfs:{s3vfs.__version__}"
SOCKET = "/csi/csi.sock"
SOCKET_ON_NODE = f"/var/lib/kubelet/plugins/{DRIVER}/csi.sock"
# The oldest release whose fields are used, and the newest that the package has.
KUBERNETES = ("1.29", kubernetes_validate.latest_version())

PODS_OF_THE_DRIVER = [pod_spec(NODE), pod_spec(CONTROLLER)]


@dataclass(frozen=True)
class Reference:
    """A place where one object names another."""

    where: str
    kind: str
    namespace: str
    name: str


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_kubernetes_accepts_each_manifest(path: Path, version: str) -> None:
    found = objects(path)
    assert found
    for made in found:
        kubernetes_validate.validate(made, version, strict=True)


def test_the_schemas_notice_a_misspelt_field() -> None:
    broken = objects(DEPLOY / "node.yaml")[0]
    broken["spec"]["template"]["spec"]["serviceAcountName"] = "s3vfs-node"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_no_object_is_defined_twice() -> None:
    assert len(BY_NAME) == len(OBJECTS)


def test_the_namespace_comes_first() -> None:
    """kubectl applies the files of a directory in their order."""
    assert objects(sorted(DEPLOY.glob("*.yaml"))[0])[0]["kind"] == "Namespace"


def test_every_object_of_the_driver_is_in_its_namespace() -> None:
    for path, made in OBJECTS:
        if path.parent == DEPLOY:
            assert made["metadata"].get("namespace", "s3vfs") == "s3vfs"
            assert made["kind"] == "Namespace" or made["metadata"]["labels"]["app.kubernetes.io/part-of"] == "s3vfs"


def test_one_driver_name_everywhere() -> None:
    (driver,) = kind("CSIDriver")
    assert driver["metadata"]["name"] == DRIVER
    assert {made["provisioner"] for made in kind("StorageClass")} == {DRIVER}
    assert {made["spec"]["csi"]["driver"] for made in kind("PersistentVolume")} == {DRIVER}
    inline = [volume["csi"] for _, _, spec in pod_specs() for volume in spec["volumes"] if "csi" in volume]
    assert {volume["driver"] for volume in inline} == {DRIVER}


def test_the_driver_object_says_what_the_driver_does() -> None:
    (driver,) = kind("CSIDriver")
    assert driver["spec"]["attachRequired"] is False
    assert driver["spec"]["podInfoOnMount"] is True
    assert driver["spec"]["fsGroupPolicy"] == "None"
    assert driver["spec"]["volumeLifecycleModes"] == ["Persistent", "Ephemeral"]
    assert driver["spec"]["requiresRepublish"] is True


def test_pods_see_shared_volumes_that_are_mounted_again() -> None:
    """Whatever is published again is mounted on top of what has died: it propagates to who asks for that."""
    looked_at = 0
    for _, name, spec in pod_specs():
        local = {"workspace", "tool", "scratch", "memory"}
        shared = {v["name"] for v in spec["volumes"] if "persistentVolumeClaim" in v or "csi" in v} - local
        for container in containers(spec):
            for mount in container.get("volumeMounts", []):
                if mount["name"] in shared:
                    looked_at += 1
                    assert mount["mountPropagation"] == "HostToContainer", name
    assert looked_at == 4


def test_all_containers_of_a_pod_share_one_socket() -> None:
    for spec in PODS_OF_THE_DRIVER:
        driver = named(spec, "s3vfs")
        assert argument(driver, "endpoint") == f"unix://{SOCKET}"
        assert argument(driver, "node-id") == "$(NODE_NAME)"
        holder = {mount["name"] for mount in driver["volumeMounts"] if mount["mountPath"] == "/csi"}
        assert len(holder) == 1
        for container in containers(spec):
            assert {m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/csi"} == holder
            if container is not driver:
                assert argument(container, "csi-address") == SOCKET


def test_the_kubelet_finds_the_socket_where_the_driver_has_it() -> None:
    spec = pod_spec(NODE)
    assert argument(named(spec, "node-driver-registrar"), "kubelet-registration-path") == SOCKET_ON_NODE
    (plugin,) = [volume for volume in spec["volumes"] if volume["name"] == "plugin"]
    assert f"{plugin['hostPath']['path']}/csi.sock" == SOCKET_ON_NODE


def test_mounts_of_the_node_plugin_reach_the_pods() -> None:
    spec = pod_spec(NODE)
    driver = named(spec, "s3vfs")
    assert driver["securityContext"]["privileged"] is True
    (kubelet,) = [mount for mount in driver["volumeMounts"] if mount["mountPath"] == "/var/lib/kubelet"]
    assert kubelet["mountPropagation"] == "Bidirectional"
    on_node = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    for directory in "state-dir", "cache-dir", "workspace-root":
        assert argument(driver, directory) in on_node.values()
    for mount in driver["volumeMounts"]:
        if mount["mountPath"] != "/csi":
            assert on_node[mount["name"]] == mount["mountPath"], "mountinfo shows the paths that the node knows"
    assert {"/var/cache/s3vfs", "/dev/fuse"} <= set(on_node.values())


def test_an_update_of_the_node_plugin_ends_no_mounts_by_itself() -> None:
    assert BY_NAME[NODE]["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_only_the_node_plugin_is_privileged() -> None:
    for name, _, spec in pod_specs():
        for container in containers(spec):
            privileged = container.get("securityContext", {}).get("privileged", False)
            assert privileged == ((name, container["name"]) == ("s3vfs-node", "s3vfs"))


def test_liveness_probes_ask_the_port_of_the_sidecar() -> None:
    for spec in PODS_OF_THE_DRIVER:
        driver = named(spec, "s3vfs")
        ports = {port["name"]: port["containerPort"] for port in driver["ports"]}
        port = ports[driver["livenessProbe"]["httpGet"]["port"]]
        assert argument(named(spec, "liveness-probe"), "health-port") == str(port)
        probing_s = int(argument(named(spec, "liveness-probe"), "probe-timeout").removesuffix("s"))
        assert probing_s < driver["livenessProbe"]["timeoutSeconds"]


def test_replicas_of_the_controller_elect_a_leader() -> None:
    spec = pod_spec(CONTROLLER)
    assert BY_NAME[CONTROLLER]["spec"]["replicas"] > 1
    for name in "csi-provisioner", "csi-resizer":
        assert "--leader-election" in named(spec, name)["args"]


def test_selectors_choose_their_own_pods() -> None:
    for made in kind("Deployment") + kind("DaemonSet"):
        labels = made["spec"]["template"]["metadata"]["labels"]
        assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()


def references() -> Iterator[Reference]:
    for name, namespace, spec in pod_specs():
        if "serviceAccountName" in spec:
            yield Reference(name, "ServiceAccount", namespace, spec["serviceAccountName"])
        for volume in spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                yield Reference(name, "PersistentVolumeClaim", namespace, claim)
            if "csi" in volume:
                yield Reference(name, "Secret", namespace, volume["csi"]["nodePublishSecretRef"]["name"])
    for made in kind("RoleBinding") + kind("ClusterRoleBinding"):
        where = f"{made['kind']} {made['metadata']['name']}"
        for subject in made["subjects"]:
            yield Reference(where, subject["kind"], subject["namespace"], subject["name"])
        role = made["roleRef"]
        yield Reference(where, role["kind"], made["metadata"].get("namespace", ""), role["name"])
    for made in kind("StorageClass"):
        for key, value in made["parameters"].items():
            if key.endswith("-secret-name"):
                space = made["parameters"][key.removesuffix("name") + "namespace"]
                yield Reference(made["metadata"]["name"], "Secret", space, value)
    for made in kind("PersistentVolume"):
        secret = made["spec"]["csi"]["nodePublishSecretRef"]
        yield Reference(made["metadata"]["name"], "Secret", secret["namespace"], secret["name"])
        claim = made["spec"]["claimRef"]
        yield Reference(made["metadata"]["name"], "PersistentVolumeClaim", claim["namespace"], claim["name"])
    for made in kind("PersistentVolumeClaim"):
        if made["spec"]["storageClassName"]:
            yield Reference(made["metadata"]["name"], "StorageClass", "", made["spec"]["storageClassName"])


@pytest.mark.parametrize("reference", list(references()), ids=lambda found: f"{found.where}: {found.kind} {found.name}")
def test_what_is_referred_to_exists(reference: Reference) -> None:
    assert (reference.kind, reference.namespace, reference.name) in BY_NAME


def test_every_mount_has_its_volume_and_every_volume_is_mounted() -> None:
    for name, _, spec in pod_specs():
        mounted = {mount["name"] for container in containers(spec) for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in spec.get("volumes", [])}, name


def test_the_controller_may_read_the_secret_of_the_class_and_no_other() -> None:
    named_by_classes = {
        value
        for made in kind("StorageClass")
        for key, value in made["parameters"].items()
        if key.endswith(("provisioner-secret-name", "controller-expand-secret-name"))
    }
    (role,) = kind("Role")
    (rule,) = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert set(rule["resourceNames"]) == named_by_classes
    assert rule["verbs"] == ["get"]
    for cluster_role in kind("ClusterRole"):
        assert all("secrets" not in rule["resources"] for rule in cluster_role["rules"])


def test_the_driver_takes_the_secrets() -> None:
    for made in kind("Secret"):
        assert environment_of(made["stringData"]) == made["stringData"]
        assert set(made["stringData"].values()) == {"replace-me"}


def test_the_driver_takes_the_parameters_of_the_classes() -> None:
    types = {}
    for made in kind("StorageClass"):
        parameters = of_class(made["parameters"])
        types[made["metadata"]["name"]] = (parameters.kind, made["volumeBindingMode"])
        if not parameters.shared:
            assert parameters.on_delete == "retain", "the controller is not on the node that would delete it"
    assert types == {"shared": ("shared", "Immediate"), "workspace": ("workspace", "WaitForFirstConsumer")}


def test_the_parameters_that_are_commented_out_are_right_too() -> None:
    text = (DEPLOY / "storageclasses.yaml").read_text()
    given = own_parameters(kind("StorageClass")[0]["parameters"])
    for name in "endpointUrl", "cacheSize":
        (line,) = [line for line in text.splitlines() if f"# {name}: " in line]
        given[name] = line.partition(f"# {name}: ")[2].partition(" ")[0]
    parameters = of_class(given)
    assert parameters.cache_size == "200GiB"
    assert parameters.location.endpoint_url == "https://objects.example.com"


def test_the_driver_takes_volumes_that_were_made_by_hand() -> None:
    for made in kind("PersistentVolume"):
        assert of_context(made["spec"]["csi"]["volumeAttributes"]).location.url
        assert mount_flags(made["spec"]["mountOptions"], shared=True)


def test_the_driver_takes_inline_volumes() -> None:
    inline = [volume["csi"] for _, _, spec in pod_specs() for volume in spec["volumes"] if "csi" in volume]
    assert inline
    for volume in inline:
        assert mount_flags(of_inline(volume["volumeAttributes"]).mount_options, shared=True)


def test_the_workspace_root_is_on_the_nodes_and_not_on_the_controller() -> None:
    """The controller's own node is no better for a workspace than another."""
    driver = named(pod_spec(NODE), "s3vfs")
    assert argument(driver, "workspace-root") in {mount["mountPath"] for mount in driver["volumeMounts"]}
    assert not any("workspace-root" in word for word in named(pod_spec(CONTROLLER), "s3vfs")["args"])
    assert "--strict-topology" in named(pod_spec(CONTROLLER), "csi-provisioner")["args"]


def test_images_have_versions_and_ours_is_this_one() -> None:
    ours: set[str] = set()
    sidecars: dict[str, str] = {}
    for _, _, spec in pod_specs():
        for container in containers(spec):
            name, _, tag = container["image"].rpartition(":")
            assert name, "an image without a version"
            assert tag != "latest"
            if name == "s3vfs":
                ours.add(container["image"])
            elif "/sig-storage/" in name:
                assert sidecars.setdefault(name, tag) == tag, "two versions of one sidecar"
    assert ours == {IMAGE}
    assert len(sidecars) == 4


def test_the_gpu_pod_has_workspace_shared_and_scratch() -> None:
    spec = BY_NAME["Pod", "default", "alice-gpu"]["spec"]
    (user,) = spec["containers"]
    places = {mount["mountPath"]: mount["name"] for mount in user["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    classes = {}
    for path in "/workspace", "/shared":
        claim = volumes[places[path]]["persistentVolumeClaim"]["claimName"]
        made = BY_NAME["PersistentVolumeClaim", "default", claim]["spec"]
        classes[path] = (made["storageClassName"], made["accessModes"])
    assert classes == {"/workspace": ("workspace", ["ReadWriteOnce"]), "/shared": ("shared", ["ReadWriteMany"])}
    assert "emptyDir" in volumes[places["/scratch"]]
    init = named(spec, "workspace-init")
    assert init["command"][-3:] == ["workspace", "init", "/workspace"]
    assert init["image"] == user["image"], "the home directory is that of the user's image"
