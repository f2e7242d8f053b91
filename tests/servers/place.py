"""What a test needs to know of an S3 server: where it is, the keys, and a fresh place in a bucket."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerPlace:
    """A running S3 server and one bucket on it. Every test takes a fresh prefix: buckets are dear on some servers."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def fresh_url(self, name: str = "v") -> str:
        """An s3:// URL that nobody has used in this run."""
        return f"s3://{self.bucket}/{name}-{os.getpid()}-{next(self._numbers)}"

    def environment(self) -> dict[str, str]:
        """What the AWS tools, and so s3vfs, read from the environment to reach this server and nothing else."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
