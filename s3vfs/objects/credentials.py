"""Who we are to an S3 server: the AWS chain (environment, profiles, SSO, processes, roles), once for both sides.

botocore's own synchronous chain finds and renews the credentials, in worker threads; the control side and the bulk
side are handed the same object, so that they never disagree. Nothing here shows a credential: not in a repr, not in
a message.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import botocore.credentials
import botocore.exceptions
import botocore.session

from s3vfs.errors import StoreDenied, UsageError
from s3vfs.objects.runner import Runner

if TYPE_CHECKING:
    from obstore.store import S3Credential

# How long the bulk side may keep what it was handed; it asks again five minutes earlier. Renewal itself is botocore's.
HANDED_OUT_FOR = datetime.timedelta(minutes=15)

_NONE_FOUND_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile"


@dataclass(frozen=True, slots=True, repr=False)
class FrozenKeys:
    """What a request is signed with. Named as botocore's signers expect; shows nothing."""

    access_key: str
    secret_key: str
    token: str | None
    account_id: str | None

    def __repr__(self) -> str:
        return "FrozenKeys(...)"


class SharedCredentials:
    """The chain's result, for both sides. Thread-safe; renews itself where the chain gave something that expires."""

    # What aiobotocore's session asks of a credentials object beside get_frozen_credentials.
    method = "s3vfs"

    def __init__(self, source: botocore.credentials.Credentials, run: Runner, now: Callable[[], datetime.datetime]):
        self._source = source
        self._run = run
        self._now = now
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"SharedCredentials(found by {self._source.method})"

    async def get_frozen_credentials(self) -> FrozenKeys:
        """For the control side's signer. Leaves the trio thread only when something must be renewed."""
        refresh_needed = getattr(self._source, "refresh_needed", None)
        if refresh_needed is not None and refresh_needed():
            return await self._run(self.frozen)
        return self.frozen()

    def get_account_id(self) -> str | None:
        """Asked for while endpoints are resolved; S3's do not depend on it."""
        return None

    def get_deferred_property(self, name: str) -> Callable[[], None]:
        """The same question in botocore's other words."""
        return lambda: None

    def frozen(self) -> FrozenKeys:
        """Blocks while something must be renewed. Raises StoreDenied."""
        try:
            with self._lock:
                found = self._source.get_frozen_credentials()
        except (botocore.exceptions.BotoCoreError, RuntimeError) as error:
            raise StoreDenied(f"credentials cannot be renewed ({type(error).__name__})") from None
        return FrozenKeys(found.access_key, found.secret_key, found.token, getattr(found, "account_id", None))

    def for_bulk(self) -> S3Credential:
        """obstore's credential provider: blocks as `frozen` does."""
        keys = self.frozen()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": self._now() + HANDED_OUT_FOR,
        }

    async def load_credentials(self) -> SharedCredentials:
        """This object also stands in for aiobotocore's credential resolver."""
        return self


async def find_credentials(
    profile: str, *, run: Runner, now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC)
) -> SharedCredentials:
    """Walk the chain in a worker thread (it may ask an instance's metadata service).

    Raises StoreDenied when it finds nothing, UsageError for an unknown profile or an unreadable config file.
    """

    def walk() -> Any:
        return botocore.session.Session(profile=profile or None).get_credentials()

    try:
        source = await run(walk)
    except botocore.exceptions.ProfileNotFound as error:
        raise UsageError(str(error), hint="see `aws configure list-profiles`") from None
    except botocore.exceptions.ConfigParseError as error:
        raise UsageError(f"unreadable AWS configuration file ({type(error).__name__})") from None
    except botocore.exceptions.BotoCoreError as error:
        raise StoreDenied(f"credentials cannot be loaded ({type(error).__name__})", hint=_NONE_FOUND_HINT) from None
    if source is None:
        raise StoreDenied("no AWS credentials found", hint=_NONE_FOUND_HINT)
    return SharedCredentials(source, run, now)
