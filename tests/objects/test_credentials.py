"""Both sides of an S3 store find the same server and the same credentials as the AWS tools would, and show none."""

from __future__ import annotations

import datetime
import traceback
from pathlib import Path
from typing import Any

import botocore.credentials
import botocore.exceptions
import pytest
import trio

from s3vfs.errors import StoreDenied, StoreUnreachable, UsageError
from s3vfs.objects.credentials import SharedCredentials, find_credentials
from s3vfs.objects.protocol import Outcome
from s3vfs.objects.runner import InlineRunner, ThreadRunner
from s3vfs.objects.s3_bulk import S3Bulk
from s3vfs.objects.url import StoreOptions, open_store
from tests.servers.authority import LoopbackAuthority
from tests.servers.moto_server import MotoServer
from tests.servers.place import ServerPlace

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
SECRET = "the-very-secret-key"


def shown(value: object) -> str:
    return f"{value!r} {value} {vars(value) if hasattr(value, '__dict__') else ''}"


def test_the_environment_is_found_and_handed_to_both_sides(aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    aws_environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    aws_environment.setenv("AWS_SESSION_TOKEN", "token")

    async def main() -> None:
        credentials = await find_credentials("", run=InlineRunner(), now=lambda: NOW)
        control = await credentials.get_frozen_credentials()
        bulk = credentials.for_bulk()
        assert (control.access_key, control.secret_key, control.token) == ("AKIDEXAMPLE", SECRET, "token")
        assert (bulk["access_key_id"], bulk["secret_access_key"], bulk["token"]) == ("AKIDEXAMPLE", SECRET, "token")
        assert bulk["expires_at"] == NOW + datetime.timedelta(minutes=15)
        for value in (credentials, control):
            assert SECRET not in shown(value)
            assert "AKIDEXAMPLE" not in shown(value)

    trio.run(main)


def test_a_profile_brings_keys_region_endpoint_and_addressing_style(
    tmp_path: Path, aws_environment: pytest.MonkeyPatch, moto: ServerPlace
) -> None:
    (tmp_path / "config").write_text(
        f"[profile work]\nregion = eu-west-1\nendpoint_url = {moto.endpoint_url}\ns3 =\n  addressing_style = path\n"
        f"[profile cloud]\nregion = eu-central-1\n"
        f"[profile virtual]\nregion = eu-west-1\nendpoint_url = http://store.example:9000\n"
        f"s3 =\n  addressing_style = virtual\n"
    )
    keys = "aws_access_key_id = AKID\naws_secret_access_key = " + SECRET
    (tmp_path / "keys").write_text("".join(f"[{name}]\n{keys}\n" for name in ("work", "cloud", "virtual")))
    aws_environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws_environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))

    async def bulk_config(profile: str, bucket: str = "bucket") -> Any:
        store = await open_store(f"s3://{bucket}/v", StoreOptions(profile=profile), run=ThreadRunner(2))
        await store.aclose()
        assert isinstance(store.bulk, S3Bulk)
        return store.bulk.settings

    async def main() -> None:
        work = await bulk_config("work")
        assert (work["endpoint"], work["region"]) == (f"{moto.endpoint_url}/bucket", "eu-west-1")
        cloud = await bulk_config("cloud")
        assert cloud["endpoint"] == "https://bucket.s3.eu-central-1.amazonaws.com"
        assert cloud["region"] == "eu-central-1"
        dotted = await bulk_config("cloud", "bucket.with.dots")
        assert dotted["endpoint"] == "https://s3.eu-central-1.amazonaws.com/bucket.with.dots"
        virtual = await bulk_config("virtual")
        assert virtual["endpoint"] == "http://bucket.store.example:9000"
        assert SECRET not in repr([work, cloud, dotted, virtual])

        store = await open_store(f"s3://{moto.bucket}/profile", StoreOptions(profile="work"), run=ThreadRunner(2))
        assert (await store.control.put("a", b"1")).outcome is Outcome.OK
        store.bulk.put_new("b", [b"2"])
        assert (await store.control.get("b")).body == b"2"
        await store.aclose()

    trio.run(main)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_both_endpoint_variables_lead_both_sides(
    aws_environment: pytest.MonkeyPatch, moto: ServerPlace, variable: str
) -> None:
    for name, value in moto.environment().items():
        aws_environment.setenv(name, value)
    aws_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    aws_environment.setenv(variable, moto.endpoint_url)

    async def main() -> None:
        store = await open_store(moto.fresh_url(), run=ThreadRunner(2))
        store.bulk.put_new("a", [b"1"])
        assert (await store.control.get("a")).body == b"1"
        await store.aclose()

    trio.run(main)


def test_options_win_over_a_misleading_environment(aws_environment: pytest.MonkeyPatch, moto: ServerPlace) -> None:
    for name, value in moto.environment().items():
        aws_environment.setenv(name, value)
    aws_environment.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    aws_environment.setenv("AWS_SKIP_SIGNATURE", "true")
    aws_environment.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false")

    async def main() -> None:
        options = StoreOptions(endpoint_url=moto.endpoint_url, region="eu-west-3")
        store = await open_store(moto.fresh_url(), options, run=ThreadRunner(2))
        store.bulk.put_new("a", [b"1"])
        assert (await store.control.get("a")).body == b"1"
        assert isinstance(store.bulk, S3Bulk)
        assert store.bulk.settings["region"] == "eu-west-3"
        await store.aclose()

    trio.run(main)


def test_no_credentials_and_unknown_profiles_say_what_to_do(aws_environment: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with pytest.raises(StoreDenied, match="AWS_ACCESS_KEY_ID"):
            await open_store("s3://bucket/v", run=ThreadRunner(2))
        with pytest.raises(UsageError, match="nobody"):
            await open_store("s3://bucket/v", StoreOptions(profile="nobody"), run=ThreadRunner(2))

    trio.run(main)


def test_an_unreadable_ca_bundle_is_named(aws_environment: pytest.MonkeyPatch, moto: ServerPlace) -> None:
    for name, value in moto.environment().items():
        aws_environment.setenv(name, value)
    aws_environment.setenv("AWS_CA_BUNDLE", "/no/such/bundle.pem")

    async def main() -> None:
        with pytest.raises(UsageError, match=r"/no/such/bundle\.pem"):
            await open_store(moto.fresh_url(), run=ThreadRunner(2))

    trio.run(main)


def test_a_private_ca_is_trusted_by_both_sides_when_named_and_by_none_when_not(
    tmp_path: Path, aws_environment: pytest.MonkeyPatch
) -> None:
    authority = LoopbackAuthority(tmp_path / "ours")
    other = LoopbackAuthority(tmp_path / "other")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(other.path.read_bytes() + authority.path.read_bytes())

    async def main(url: str) -> None:
        run = ThreadRunner(2)
        store = await open_store(url, StoreOptions(io_timeout_s=5), run=run)
        with pytest.raises(StoreUnreachable, match="certificate verify failed"):
            await store.control.put("a", b"1")
        with pytest.raises(StoreUnreachable):
            await run(store.bulk.put_new, "a", [b"1"])
        await store.aclose()

        aws_environment.setenv("AWS_CA_BUNDLE", str(bundle))
        store = await open_store(url, run=run)
        await run(store.bulk.put_new, "a", [b"1"])
        assert (await store.control.get("a")).body == b"1"
        assert bytes(await run(store.bulk.get_range, "a", 0, 1)) == b"1"
        await store.aclose()

    with MotoServer(tls=authority) as server:
        for name, value in server.place.environment().items():
            aws_environment.setenv(name, value)
        trio.run(main, server.place.fresh_url())


def refreshable(answers: list[dict[str, str] | Exception]) -> botocore.credentials.RefreshableCredentials:
    def refresh() -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    return botocore.credentials.RefreshableCredentials("old", SECRET, "t", past, refresh, "test")


def fresh(key: str) -> dict[str, str]:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=5)
    return {"access_key": key, "secret_key": SECRET, "token": "t", "expiry_time": later.isoformat()}


def test_expired_credentials_are_renewed_once_for_both_sides() -> None:
    async def main() -> None:
        credentials = SharedCredentials(refreshable([fresh("new")]), ThreadRunner(2), lambda: NOW)
        assert (await credentials.get_frozen_credentials()).access_key == "new"
        assert credentials.for_bulk()["access_key_id"] == "new"

    trio.run(main)


def test_a_failing_renewal_is_denied_without_a_trace_of_the_secret() -> None:
    failure = botocore.exceptions.CredentialRetrievalError(provider="test", error_msg=SECRET)

    async def main() -> None:
        credentials = SharedCredentials(refreshable([failure, failure]), ThreadRunner(2), lambda: NOW)
        with pytest.raises(StoreDenied) as denied:
            await credentials.get_frozen_credentials()
        assert SECRET not in "".join(traceback.format_exception(denied.value))

    trio.run(main)
