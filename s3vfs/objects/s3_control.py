"""`Control` over S3: aiobotocore, natively on trio.

The library's own retries are off (R1): conditional PUTs and deletions are one request each. Reads are repeated here,
with growing pauses, until they succeed or `io_timeout_s` is over.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import botocore.exceptions
import httpx2
import trio

from s3vfs.errors import StoreUnreachable
from s3vfs.objects.keys import check_key, check_listing
from s3vfs.objects.protocol import Listed, Outcome, Page, Reply
from s3vfs.objects.s3_answers import error_of, unreachable

_T = TypeVar("_T")

# Requests under way at the same time: journal, HEAD, sessions and listings need a few, a probe needs eight.
CONTROL_CONNECTIONS = 32
# A connection inside one region takes milliseconds, round the world 0.3 s.
CONNECT_TIMEOUT_S = 5.0
# Silence on a connection: S3's slow answers take under a second, so this is a lost peer. The request counts as unknown.
SILENCE_TIMEOUT_S = 15.0
# Reads: the first pause; each further one doubles, up to the longest; jitter takes up to half of it away.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
# Between two tries, unless time is over before.
READ_ATTEMPTS = 5

# Above every character that follows a delimiter in a key: passes over a whole group (see Page).
_LAST_CHARACTER = "\U0010ffff"


class S3Control:
    """One bucket and prefix. `client` is an entered aiobotocore S3 client without retries; `close` leaves it."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        base: str,
        *,
        io_timeout_s: float,
        jitter: Callable[[], float],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._base = base
        self._io_timeout_s = io_timeout_s
        self._jitter = jitter
        self._close = close

    async def get(self, key: str) -> Reply:
        async def once() -> Reply:
            return await self._answered(f"GET {key}", self._get_once(key), missing=Outcome.MISSING)

        check_key(self._base + key)
        return await self._repeated(once)

    async def head(self, key: str) -> Reply:
        async def once() -> Reply:
            request = self._client.head_object(Bucket=self._bucket, Key=self._base + key)
            return await self._answered(f"HEAD {key}", _plain(request), missing=Outcome.MISSING)

        check_key(self._base + key)
        return await self._repeated(once)

    async def put(self, key: str, body: bytes, *, if_absent: bool = False, if_match: str = "") -> Reply:
        check_key(self._base + key)
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        # Without a checksum, SeaweedFS takes a request that breaks off right after its headers for an empty object.
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode("ascii")
        request = self._client.put_object(
            Bucket=self._bucket, Key=self._base + key, Body=body, ContentMD5=checksum, **condition
        )
        refused = {Outcome.REFUSED, Outcome.CONFLICT} if condition else set()
        # If-Match on a missing key is 404 on AWS, 412 elsewhere: the condition did not hold.
        missing = Outcome.REFUSED if if_match else None
        return await self._timed(f"PUT {key}", _plain(request), refused=refused, missing=missing)

    async def delete(self, key: str, *, if_match: str = "") -> Reply:
        check_key(self._base + key)
        condition = {"IfMatch": if_match} if if_match else {}
        request = self._client.delete_object(Bucket=self._bucket, Key=self._base + key, **condition)
        refused = {Outcome.REFUSED} if condition else set()
        return await self._timed(f"DELETE {key}", _plain(request), refused=refused, missing=Outcome.OK)

    async def list_page(self, prefix: str, *, start_after: str = "", delimiter: str = "", limit: int = 1000) -> Page:
        check_listing(prefix, delimiter)
        arguments = {"Bucket": self._bucket, "Prefix": self._base + prefix, "MaxKeys": limit}
        if delimiter:
            arguments["Delimiter"] = delimiter
        if start_after:
            passed_over = bool(delimiter) and start_after.endswith(delimiter)
            arguments["StartAfter"] = self._base + start_after + (_LAST_CHARACTER if passed_over else "")
        what = f"LIST {prefix}"

        async def once() -> Page:
            answer: dict[str, Any] = {}

            async def ask() -> Reply:
                answer.update(await self._client.list_objects_v2(**arguments))
                return _reply(Outcome.OK, answer)

            await self._answered(what, ask())
            page = self._page(answer)
            inside_last = page.last.endswith("/") and start_after.startswith(page.last) and start_after != page.last
            if page.more and page.last <= start_after and not inside_last:
                raise StoreUnreachable(f"{what}: the store's listing does not advance")  # R11: no half listing
            return page

        return await self._repeated(once)

    async def aclose(self) -> None:
        await self._close()

    async def _get_once(self, key: str) -> Reply:
        answer = await self._client.get_object(Bucket=self._bucket, Key=self._base + key)
        async with answer["Body"] as stream:
            body: bytes = await stream.read()
        return _reply(Outcome.OK, answer, body)

    def _page(self, answer: dict[str, Any]) -> Page:
        cut = len(self._base)
        entries = [
            Listed(entry["Key"][cut:], int(entry["Size"]), entry.get("ETag", ""))
            for entry in answer.get("Contents", ())
            # "Folders" that other tools make are no keys of ours.
            if not entry["Key"].endswith("/")
        ]
        prefixes = [group["Prefix"][cut:] for group in answer.get("CommonPrefixes", ())]
        last = max(
            [entry["Key"][cut:] for entry in answer.get("Contents", ())[-1:]] + prefixes[-1:],
            default="",
        )
        return Page(entries, prefixes, bool(answer.get("IsTruncated")), last)

    async def _repeated(self, once: Callable[[], Awaitable[_T]]) -> _T:
        """A read, repeated while it cannot be answered and time is left. Raises the last error."""
        deadline = trio.current_time() + self._io_timeout_s
        pause = FIRST_PAUSE_S
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                with trio.fail_at(deadline):
                    return await once()
            except trio.TooSlowError:
                raise StoreUnreachable(f"no answer from the store within {self._io_timeout_s:g} s") from None
            except StoreUnreachable:
                if attempt == READ_ATTEMPTS or trio.current_time() + pause >= deadline:
                    raise
            await trio.sleep(pause * (1 - self._jitter() / 2))
            pause = min(2 * pause, LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    async def _timed(self, what: str, request: Awaitable[Reply], **meanings: Any) -> Reply:
        """One request, once: its outcome is unknown when time is over (R2)."""
        try:
            with trio.fail_after(self._io_timeout_s):
                return await self._answered(what, request, **meanings)
        except trio.TooSlowError:
            raise unreachable(what, f"{self._io_timeout_s:g} s are over") from None

    async def _answered(
        self,
        what: str,
        request: Awaitable[Reply],
        *,
        refused: set[Outcome] = frozenset(),  # type: ignore[assignment]
        missing: Outcome | None = None,
    ) -> Reply:
        """Await one request and translate what the library raises."""
        try:
            return await request
        except botocore.exceptions.ClientError as error:
            answer: dict[str, Any] = error.response
            code = str(answer.get("Error", {}).get("Code", ""))
            status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        except (botocore.exceptions.BotoCoreError, httpx2.HTTPError, OSError, trio.BrokenResourceError) as error:
            raise unreachable(what, _reason(error)) from None
        if status == 404 and code != "NoSuchBucket" and missing is not None:
            return _reply(missing, answer)
        if status == 412 and Outcome.REFUSED in refused:
            return _reply(Outcome.REFUSED, answer)
        if status == 409 and Outcome.CONFLICT in refused:
            return _reply(Outcome.CONFLICT, answer)
        # HEAD has no body: its "code" is only the status once more.
        raise error_of(status, "" if code == str(status) else code, what)


async def _plain(request: Awaitable[dict[str, Any]]) -> Reply:
    return _reply(Outcome.OK, await request)


def _reply(outcome: Outcome, answer: dict[str, Any], body: bytes = b"") -> Reply:
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return Reply(outcome, _date_ns(headers.get("date", "")), str(answer.get("ETag", "")), body)


def _date_ns(header: str) -> int:
    """The Date header in nanoseconds. Without one the answer cannot be trusted with R5: as unreachable."""
    try:
        return int(email.utils.parsedate_to_datetime(header).timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        raise StoreUnreachable(f"the store's answer has no readable Date ({header!r})") from None


def _reason(error: BaseException) -> str:
    """The kind of failure, without URLs and texts that might repeat a signature."""
    if isinstance(error, botocore.exceptions.SSLError):
        return f"TLS: {error.kwargs.get('error')}"
    inner = error.__context__ if isinstance(error, botocore.exceptions.HTTPClientError) else None
    names = [type(part).__name__ for part in (error, inner) if part is not None]
    return " from ".join(names)
