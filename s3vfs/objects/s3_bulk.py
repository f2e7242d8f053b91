"""`Bulk` over S3: obstore's synchronous calls, which move bytes off the GIL.

Where the bucket is, who we are and whom we trust comes from the control side's client, as one base URL, one credential
provider and one set of CA certificates. obstore's own reading of the environment is overridden where it matters.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from s3vfs.errors import ObjectExists, ObjectMissing, StoreUnreachable
from s3vfs.objects.keys import check_key
from s3vfs.objects.s3_answers import error_of, unreachable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential
    from typing_extensions import Buffer

CONNECT_TIMEOUT_S = 5.0
# Silence while a range is read, before it is asked for again. Not for PUT: there it would count the upload's time.
SILENCE_TIMEOUT_S = 20.0
# Ranges are asked for again on a cut connection, silence or a 5xx; together with the silence below the I/O time-out.
GET_RETRIES = 3
# Shorter than servers keep idle connections (20 s on AWS), so that a PUT rarely meets a closed one.
IDLE_CONNECTION_S = 12.0

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_IO_KINDS = re.compile(r"kind: (\w+)")


class S3Bulk:
    """One bucket and prefix. Thread-safe; connections are obstore's, shared by all threads."""

    def __init__(self, reading: S3Store, writing: S3Store, base: str) -> None:
        self._reading = reading
        self._writing = writing
        self._base = base

    @property
    def settings(self) -> S3Config:
        """What both of obstore's stores were told, without credentials: for status and tests."""
        return self._writing.config

    def get_range(self, key: str, offset: int, length: int) -> Buffer:
        path = self._path(key)
        if length == 0:
            return b""
        try:
            part = obstore.get_range(self._reading, path, start=offset, length=length)
        except FileNotFoundError as error:
            self._raise_missing(f"GET {key}", error)
        except (BaseError, OSError, ValueError) as error:
            raise _translated(f"GET {key}", error) from None
        if len(part) != length:
            raise StoreUnreachable(f"object {key}: {len(part)} bytes at {offset} instead of {length}")
        return part

    def put_new(self, key: str, body: Sequence[Buffer]) -> None:
        path = self._path(key)
        try:
            obstore.put(self._writing, path, iter(body), mode="create", use_multipart=False)
        except AlreadyExistsError as error:
            # object_store says "already exists" for 409 (another request is in the way) too: that is no answer.
            if _status(error) == 412:
                raise ObjectExists(f"object {key} exists already") from None
            raise _translated(f"PUT {key}", error) from None
        except (BaseError, OSError) as error:
            raise _translated(f"PUT {key}", error) from None

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            obstore.delete(self._reading, path)
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise _translated(f"DELETE {key}", error) from None
        except (BaseError, OSError) as error:
            raise _translated(f"DELETE {key}", error) from None

    def close(self) -> None:
        """Connections close when the last call that uses them has ended."""

    def _path(self, key: str) -> str:
        check_key(self._base + key)
        return self._base + key

    @staticmethod
    def _raise_missing(what: str, error: FileNotFoundError) -> NoReturn:
        if _code(error) == "NoSuchBucket":
            raise _translated(what, error) from None
        raise ObjectMissing(f"{what}: no such object") from None


def open_s3_bulk(
    bucket: str,
    base: str,
    *,
    bucket_url: str,
    region: str,
    credentials: Callable[[], S3Credential],
    ca_certificates: bytes | None,
    io_timeout_s: float,
) -> S3Bulk:
    """`bucket_url` is the base that keys are appended to, in whichever addressing style botocore has chosen."""
    secure = bucket_url.startswith("https:")
    config: S3Config = {
        # "Virtual hosted" means to obstore: the endpoint names the bucket already, whatever it looks like.
        "endpoint": bucket_url,
        "aws_endpoint_url_s3": bucket_url,
        "virtual_hosted_style_request": True,
        "region": region,
        "conditional_put": "etag",
        "skip_signature": False,
        "disable_bulk_delete": True,
        # As botocore does: TLS already guards the body, plain HTTP gets it signed.
        "unsigned_payload": secure,
    }
    client: ClientConfig = {
        "allow_http": not secure,
        "connect_timeout": _seconds(min(CONNECT_TIMEOUT_S, io_timeout_s)),
        "timeout": _seconds(io_timeout_s),
        "pool_idle_timeout": _seconds(IDLE_CONNECTION_S),
    }
    if ca_certificates is not None:
        client["root_certificate"] = ca_certificates
    reading_client: ClientConfig = {
        **client,
        "read_timeout": _seconds(min(SILENCE_TIMEOUT_S, io_timeout_s / (GET_RETRIES + 1))),
    }
    reading = S3Store(
        bucket,
        config=config,
        client_options=reading_client,
        credential_provider=credentials,
        retry_config={"max_retries": GET_RETRIES, "retry_timeout": datetime.timedelta(seconds=io_timeout_s)},
    )
    writing = S3Store(
        bucket,
        config=config,
        client_options=client,
        credential_provider=credentials,
        retry_config={"max_retries": 0},  # R1
    )
    return S3Bulk(reading, writing, base)


def _seconds(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)


def _status(error: Exception) -> int:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def _code(error: Exception) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""


def _translated(what: str, error: Exception) -> Exception:
    """Our error for obstore's: it tells the status only in its text. The text itself stays out (s3_answers)."""
    status = _status(error)
    if status:
        return error_of(status, _code(error), what)
    if "redirect" in str(error):
        return error_of(301, _code(error), what)
    kinds = _IO_KINDS.findall(str(error))
    return unreachable(what, " from ".join([type(error).__name__, *dict.fromkeys(kinds)]))
