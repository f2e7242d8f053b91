"""The image is built from the Dockerfile, and what is in it works: the command line, mounts, the CSI driver's start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import s3vfs
from tests.image.builder import ImageBuilder, ImageConfig
from tests.image.container import Container
from tests.image.manifests import NODE, named, pod_spec

CHECKOUT = Path(__file__).parents[2]

# 80 MB of it are the base.
LARGEST_IMAGE_BYTES = 230 << 20

LOAD_ALL_EXTENSIONS = """
import ctypes, os, pathlib, sysconfig
files = list(pathlib.Path(sysconfig.get_path("purelib")).rglob("*.so"))
for path in files:
    ctypes.CDLL(str(path), mode=os.RTLD_NOW)
print(len(files))
"""

CLIENTS_OF_BOTOCORE = """
import botocore.session
session = botocore.session.Session()
for service in "s3", "sts", "sso", "sso-oidc", "signin":
    session.create_client(service, region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
"""


KUBELET = (Path(__file__).parent / "kubelet.py").read_text()


@pytest.fixture(scope="module")
def builder() -> Iterator[ImageBuilder]:
    with ImageBuilder() as made:
        yield made


@pytest.fixture(scope="module")
def config(builder: ImageBuilder) -> ImageConfig:
    made = builder.build(CHECKOUT)
    print("seconds:", {step: round(seconds, 1) for step, seconds in builder.seconds.items()})
    return made


@pytest.fixture(scope="module")
def root(builder: ImageBuilder, config: ImageConfig) -> Path:
    """The file system of one container, shared by the tests of this module; each uses names of its own in it."""
    return builder.root_of_container()


@pytest.fixture
def container(root: Path, config: ImageConfig, tmp_path: Path) -> Iterator[Container]:
    with Container(root, config, tmp_path / "cache", [*config.entrypoint[:2], "sleep", "infinity"]) as made:
        yield made


def healthy(container: Container, config: ImageConfig) -> bool:
    kind, command = config.health
    assert kind == "CMD-SHELL"
    return container.run("/bin/sh", "-c", command, check=False).returncode == 0


def test_the_image_is_small_and_has_no_compilers(root: Path, container: Container) -> None:
    size_bytes = int(container.run("du", "-s", "-x", "--block-size=1", "--exclude=/tmp", "/").stdout.split()[0])
    print("image:", size_bytes >> 20, "MiB")
    assert size_bytes < LARGEST_IMAGE_BYTES
    for tool in "gcc", "cc", "ld", "pip", "pkg-config":
        assert container.shell(f"command -v {tool}", check=False).returncode != 0, tool
    assert (
        container.shell("ls -A /var/lib/apt/lists /var/cache/apt/archives | grep -c deb", check=False).stdout == "0\n"
    )
    assert container.shell("find / -xdev -name '*.yaml' -path '*deploy*' -o -xdev -name .git").stdout == ""


def test_settings_of_the_building_machine_stay_out_of_it(
    root: Path, builder: ImageBuilder, config: ImageConfig
) -> None:
    """What is mounted for the build leaves empty files at most."""
    for name in "etc/pip.conf", "etc/apt/apt.conf.d/99build", "run/build/ca.crt":
        assert not (root / name).exists() or (root / name).stat().st_size == 0


def test_the_entry_point_is_the_command_line(root: Path, config: ImageConfig, container: Container) -> None:
    assert config.entrypoint[-1] == "s3vfs"
    assert container.run(*config.entrypoint, "--version").stdout.split() == ["s3vfs", s3vfs.__version__]
    assert "usage: s3vfs" in container.run(*config.entrypoint, *config.command).stdout


def test_all_that_was_compiled_can_be_loaded(container: Container) -> None:
    """Stripped binaries and a virtual environment from another stage."""
    assert int(container.run("python3", "-c", LOAD_ALL_EXTENSIONS).stdout) > 10


def test_the_native_extension_is_there_for_mounts(container: Container) -> None:
    container.run("python3", "-c", "from s3vfs.fuse.libfuse import interpose, missing; assert interpose, missing")


def test_botocore_knows_the_services_that_are_needed(container: Container) -> None:
    container.run("python3", "-c", CLIENTS_OF_BOTOCORE)


def test_the_csi_driver_starts(container: Container) -> None:
    """As csi/deploy calls it."""
    assert "--endpoint" in container.run("python3", "-m", "csi", "--help").stdout


def test_one_file_of_it_runs_elsewhere(container: Container) -> None:
    """As the GPU pod of csi/deploy/examples does it: a copied file, and a Python that knows nothing of us."""
    container.shell("mkdir /tool; cp /opt/s3vfs/share/s3vfs.pyz /tool/s3vfs; test -x /tool/s3vfs")
    alone = ["env", "-i", "PATH=/usr/bin:/bin", "/tool/s3vfs"]
    assert container.run(*alone, "--version").stdout.split() == ["s3vfs", s3vfs.__version__]
    assert container.run(*alone, "workspace", "nonsense", check=False).returncode == 2, (
        "exit codes are those of the command"
    )
    container.shell("mkdir -p /srv/workspace /root; echo mine >/root/file")
    container.run(*alone, "workspace", "init", "/srv/workspace")
    assert container.shell("cat /srv/workspace/home/file").stdout == "mine\n"


def test_mount_write_read_unmount(container: Container) -> None:
    container.shell("mkdir /srv/first /mnt/first; s3vfs format file:///srv/first/volume --name first")
    container.shell("s3vfs mount file:///srv/first/volume /mnt/first")
    container.shell("mkdir /mnt/first/folder; head -c 3000000 /dev/urandom >/tmp/bytes")
    container.shell(
        "cp /tmp/bytes /mnt/first/folder/; ln -s folder/bytes /mnt/first/link; cmp /tmp/bytes /mnt/first/link"
    )
    container.shell('s3vfs umount /mnt/first; test -z "$(ls -A /mnt/first)"; ! grep fuse.s3vfs /proc/self/mountinfo')
    container.shell("rm -r /var/cache/s3vfs/*; s3vfs mount file:///srv/first/volume /mnt/first --read-only")
    container.shell("cmp /tmp/bytes /mnt/first/link; ! touch /mnt/first/more; s3vfs umount /mnt/first")


def test_health_is_that_of_the_mounts(container: Container, config: ImageConfig) -> None:
    assert healthy(container, config), "nothing is mounted"
    container.shell("mkdir /srv/second /mnt/second; s3vfs format file:///srv/second/volume --name second")
    container.shell("s3vfs mount file:///srv/second/volume /mnt/second")
    assert healthy(container, config)
    container.shell("""kill -9 "$(s3vfs status --json /mnt/second | sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')" """)
    container.wait_for("! ls /mnt/second", 30)
    assert not healthy(container, config)
    container.shell("s3vfs mount file:///srv/second/volume /mnt/second")
    assert healthy(container, config), "mounting again mends it"


def test_a_daemon_that_has_ended_is_not_left_as_a_zombie(container: Container) -> None:
    container.shell("mkdir /srv/third /mnt/third; s3vfs format file:///srv/third/volume --name third")
    container.shell("s3vfs mount file:///srv/third/volume /mnt/third; s3vfs umount /mnt/third")
    container.wait_for("! grep -l '^State:.Z' /proc/[0-9]*/status", 30)


def test_the_node_plugin_runs_as_its_manifest_says(
    root: Path, config: ImageConfig, container: Container, tmp_path: Path
) -> None:
    """Command, arguments and hook of csi/deploy/node.yaml. The kubelet's calls are a script's; no sidecar is here."""
    driver = named(pod_spec(NODE), "s3vfs")
    container.shell("mkdir -p /csi /srv/fifth; s3vfs format file:///srv/fifth/volume --name fifth")
    command = [word.replace("$(NODE_NAME)", "node-1") for word in [*driver["command"], *driver["args"]]]
    with Container(root, config, tmp_path / "node-cache", command) as plugin:
        plugin.wait_for("test -S /csi/csi.sock", 60)
        plugin.run("python3", "-c", KUBELET, "publish", "/var/lib/kubelet/pods/one/mount", "file:///srv/fifth/volume")
        plugin.shell("echo first >/var/lib/kubelet/pods/one/mount/first")
        plugin.run("python3", "-c", KUBELET, "unpublish", "/var/lib/kubelet/pods/one/mount")
        plugin.shell("! grep fuse.s3vfs /proc/self/mountinfo")
        plugin.run("python3", "-c", KUBELET, "publish", "/var/lib/kubelet/pods/two/mount", "file:///srv/fifth/volume")
        plugin.shell("echo second >/var/lib/kubelet/pods/two/mount/second")
        plugin.run(*driver["lifecycle"]["preStop"]["exec"]["command"])
        assert plugin.stop(60) == 0
    container.shell("mkdir /mnt/fifth; s3vfs mount file:///srv/fifth/volume /mnt/fifth --read-only")
    assert container.shell("cat /mnt/fifth/*").stdout == "first\nsecond\n"
    with Container(root, config, tmp_path / "node-cache", command) as successor:
        successor.wait_for("test -S /csi/csi.sock", 60)
        assert successor.shell("touch /var/lib/kubelet/pods/two/mount/file", check=False).returncode != 0, "sealed"
        successor.run("python3", "-c", KUBELET, "unpublish", "/var/lib/kubelet/pods/two/mount")
        successor.wait_for('test -z "$(ls -A /var/lib/s3vfs/csi/mounts)"', 60)


def test_stopping_a_container_publishes_what_was_written(
    root: Path, config: ImageConfig, container: Container, tmp_path: Path
) -> None:
    """`docker run s3vfs mount --foreground ...`, then `docker stop`."""
    container.shell("mkdir /srv/fourth /mnt/fourth; s3vfs format file:///srv/fourth/volume --name fourth")
    command = [*config.entrypoint, "mount", "--foreground", "file:///srv/fourth/volume", "/mnt/fourth"]
    with Container(root, config, tmp_path / "other-cache", command) as mounting:
        mounting.wait_for("grep -q fuse.s3vfs /proc/self/mountinfo", 60)
        mounting.shell("echo kept >/mnt/fourth/file")
        assert mounting.stop(60) == 0
    container.shell("s3vfs mount file:///srv/fourth/volume /mnt/fourth")
    assert container.shell("cat /mnt/fourth/file").stdout == "kept\n"
