"""Parameters, contexts, secrets and mount options: what is accepted, and that nothing else is."""

from __future__ import annotations

import pytest

from csi.parameters import asks_read_only, environment_of, mount_flags, of_class, of_context, of_inline
from csi.refusals import Refusal
from csi.volume_id import Location

URL = {"url": "s3://bucket/volumes"}


def test_a_class_of_shared_volumes() -> None:
    given = {**URL, "type": "shared", "endpointUrl": "http://h:1", "region": "r", "cacheSize": "10GiB"}
    parameters = of_class({**given, "csi.storage.k8s.io/pvc/name": "x"})
    assert parameters.location == Location("s3://bucket/volumes", "http://h:1", "r")
    assert parameters.on_delete == "delete"
    assert parameters.context(parameters.location.child("pvc-1")) == {
        "type": "shared",
        "url": "s3://bucket/volumes/pvc-1",
        "endpointUrl": "http://h:1",
        "region": "r",
        "cacheSize": "10GiB",
    }


def test_a_context_reads_as_it_was_written() -> None:
    parameters = of_class({**URL, "cacheSize": "1GiB"})
    assert of_context(parameters.context(parameters.location)).context(parameters.location) == parameters.context(
        parameters.location
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"type": "shared"},
        {**URL, "type": "block"},
        {**URL, "onDelete": "keep"},
        {**URL, "colour": "red"},
        {**URL, "cacheSize": "much"},
        {**URL, "endpointUrl": "ftp://h"},
        {**URL, "endpointUrl": "http://user:secret@h"},
        {**URL, "endpointUrl": "http://h#x"},
        {**URL, "region": "a#b"},
        {"url": "nfs://h/x"},
        {"url": "s3://key:secret@bucket"},
    ],
)
def test_a_class_that_makes_no_sense_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(Refusal) as refused:
        of_class(given)
    assert "secret" not in refused.value.message


def test_an_unknown_key_is_named_and_its_value_is_not() -> None:
    with pytest.raises(Refusal, match="'token'") as refused:
        of_class({**URL, "token": "hunter2"})
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    "given", [{}, {"url": "file:///etc"}, {**URL, "type": "workspace"}, {**URL, "onDelete": "delete"}]
)
def test_who_writes_pods_cannot_reach_into_the_node(given: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        of_inline(given)


def test_secrets_become_the_environment() -> None:
    given = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://h", "other": "x"}
    assert environment_of(given) == {name: given[name] for name in given if name != "other"}


@pytest.mark.parametrize(
    "key", ["AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
)
def test_secrets_cannot_make_the_node_read_files(key: str) -> None:
    with pytest.raises(Refusal, match=key) as refused:
        environment_of({key: "hunter2"})
    assert "hunter2" not in refused.value.message


def test_mount_options_on_the_list_pass() -> None:
    flags = mount_flags(["freshness=0,noexec", "io_timeout=5"], shared=True)
    assert flags == ("freshness=0", "noexec", "io_timeout=5")
    assert not asks_read_only(flags)
    assert asks_read_only(mount_flags(["rw", "ro"], shared=True))


@pytest.mark.parametrize(
    "flag",
    [
        "cache_dir=/etc",
        "log_file=/etc/passwd",
        "endpoint_url=http://h",
        "profile=p",
        "suid",
        "dev",
        "nonempty",
        "no_allow_other",
    ]
    + ["allow_other", "x-anything", "bind", "freshness=never"],
)
def test_mount_options_off_the_list_are_refused(flag: str) -> None:
    with pytest.raises(Refusal):
        mount_flags([flag], shared=True)


def test_a_workspace_takes_what_a_bind_mount_can_do() -> None:
    assert mount_flags(["noexec", "ro"], shared=False) == ("noexec", "ro")
    with pytest.raises(Refusal):
        mount_flags(["freshness=0"], shared=False)
