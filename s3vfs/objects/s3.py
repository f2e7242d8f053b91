"""A bucket over the S3 protocol: opens both sides with one session, so that they always agree.

Endpoint, region, addressing style, CA bundle and credentials are found as the AWS tools find them (AWS_PROFILE,
AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_CA_BUNDLE, the config files), by aiobotocore for the control
side; what it decided is handed to the bulk side.
"""

from __future__ import annotations

import contextlib
import logging
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import botocore.exceptions
from aiobotocore.config import AioConfig
from aiobotocore.httpxsession import HttpxSession
from aiobotocore.session import AioSession

from s3vfs.errors import UsageError
from s3vfs.objects.credentials import SharedCredentials, find_credentials
from s3vfs.objects.runner import Runner
from s3vfs.objects.s3_bulk import open_s3_bulk
from s3vfs.objects.s3_control import CONNECT_TIMEOUT_S, CONTROL_CONNECTIONS, SILENCE_TIMEOUT_S, S3Control
from s3vfs.objects.store import OpenedStore

if TYPE_CHECKING:
    from s3vfs.objects.url import StoreOptions

# Where nothing names a region: servers that are not AWS take any, and AWS's own default is this one.
DEFAULT_REGION = "us-east-1"

# Their debug lines hold signed headers.
_TALKATIVE_LOGGERS = ("botocore", "aiobotocore", "httpx2", "httpcore2")


async def open_s3(
    bucket: str, prefix: str, url: str, options: StoreOptions, *, run: Runner, jitter: Callable[[], float]
) -> OpenedStore:
    """Open `bucket`; keys live below `prefix`. No request to the bucket is made. Raises StoreDenied, UsageError."""
    for name in _TALKATIVE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    credentials = await find_credentials(options.profile, run=run)
    base = f"{prefix}/" if prefix else ""
    session = AioSession(profile=options.profile or None)
    ca_certificates = await run(_ca_certificates, session)
    async with contextlib.AsyncExitStack() as stack:
        client = await _entered_client(stack, session, credentials, options)
        region = str(client.meta.region_name)
        bulk = open_s3_bulk(
            bucket,
            base,
            bucket_url=await _bucket_url(client, bucket),
            region=region,
            credentials=credentials.for_bulk,
            ca_certificates=ca_certificates,
            io_timeout_s=options.io_timeout_s,
        )
        kept = stack.pop_all()
        control = S3Control(client, bucket, base, io_timeout_s=options.io_timeout_s, jitter=jitter, close=kept.aclose)
        return OpenedStore(url, control, bulk)
    raise AssertionError("an exit stack swallows nothing here")


async def _entered_client(
    stack: contextlib.AsyncExitStack, session: AioSession, credentials: SharedCredentials, options: StoreOptions
) -> Any:
    silence_s = min(SILENCE_TIMEOUT_S, options.io_timeout_s)
    config = AioConfig(
        http_session_cls=HttpxSession,
        warm_up_loader_caches=True,  # reads megabytes of service description: off the trio thread
        connector_args={"write_timeout": silence_s, "pool_timeout": options.io_timeout_s},
        connect_timeout=min(CONNECT_TIMEOUT_S, options.io_timeout_s),
        read_timeout=silence_s,
        max_pool_connections=CONTROL_CONNECTIONS,
        retries={"total_max_attempts": 1},  # R1
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="s3vfs",
    )
    session.register_component("credential_provider", credentials)
    region = options.region or session.get_config_variable("region") or DEFAULT_REGION
    try:
        return await stack.enter_async_context(
            session.create_client("s3", region_name=region, endpoint_url=options.endpoint_url or None, config=config)
        )
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise UsageError(f"unusable S3 options: {error}") from None


async def _bucket_url(client: Any, bucket: str) -> str:
    """The URL that a key is appended to, as botocore itself builds it (path or virtual-host style, accelerate, dual
    stack, FIPS): taken from a request that stops before it is signed and sent."""
    urls: list[str] = []

    def instead_of_sending(params: dict[str, Any], **rest: object) -> tuple[Any, dict[str, Any]]:
        urls.append(params["url"])
        return SimpleNamespace(status_code=200), {}

    event = "before-call.s3.HeadObject"
    client.meta.events.register_first(event, instead_of_sending)
    try:
        await client.head_object(Bucket=bucket, Key="k")
    finally:
        client.meta.events.unregister(event, instead_of_sending)
    parts = urllib.parse.urlsplit(urls[0])
    return parts._replace(path=parts.path.removesuffix("/k"), query="", fragment="").geturl()


def _ca_certificates(session: AioSession) -> bytes | None:
    """The PEM file that AWS_CA_BUNDLE or the profile's ca_bundle names. Raises UsageError where it is unreadable."""
    path = session.get_config_variable("ca_bundle")
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the CA bundle {path} is unreadable: {error.strerror}") from None
