"""What an S3 server's status and error code mean to us: the one place where they become our error tree.

Messages carry the status and S3's error code, never the server's text: that may repeat parts of the signed request.
"""

from __future__ import annotations

from s3vfs.errors import BucketMissing, StoreDenied, StoreError, StoreThrottled, StoreUnreachable

_THROTTLED_CODES = frozenset(
    {
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "TooManyRequests",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
    }
)
# 400 where AWS means "who are you": expired or mangled credentials, a clock that is wrong by minutes.
_DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"})
_HINTS = {
    "ExpiredToken": "log in again",
    "InvalidAccessKeyId": "check the access key",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check the secret key",
}


def error_of(status: int, code: str, what: str) -> StoreError:
    """The error to raise for an answer that no caller of ours can use. `what` names the request and its key.

    404 is BucketMissing only with S3's code for it; a missing key is the caller's to recognise before.
    """
    message = f"{what}: the store answered {status}{f' {code}' if code else ''}"
    if code in _DENIED_CODES or status in (401, 403):
        return StoreDenied(message, hint=_HINTS.get(code, "check the credentials and the bucket's policy"))
    if code == "NoSuchBucket":
        return BucketMissing(message, hint="check the URL, or make the bucket first")
    if status in (301, 307, 308) or code in _REGION_CODES:
        return StoreError(message, hint="check the region and the endpoint URL")
    if status in (429, 503) or code in _THROTTLED_CODES:
        return StoreThrottled(message)
    if status >= 500 or status in (408, 409, 416) or code == "RequestTimeout":
        return StoreUnreachable(message)
    return StoreError(message)


def unreachable(what: str, reason: str) -> StoreUnreachable:
    """No whole answer: the connection failed, was cut, or stayed silent."""
    return StoreUnreachable(f"{what}: no answer from the store ({reason})")
