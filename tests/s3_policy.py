"""A MinIO user with the rights of deploy/s3-policy.json: what `make test-real` runs the integration suite as.

    python -m tests.s3_policy      environment: MINIO_TEST__ENDPOINT, MINIO_TEST__ROOT_USER, MINIO_TEST__ROOT_PASSWORD, and
                                   TEST_STORAGE__ACCESS_KEY, TEST_STORAGE__SECRET_KEY of the user to make

The suite makes a bucket for almost every test, so its user has the policy for all buckets, and besides it the right to
make them (docs/hosts.md, "S3 store"). tests/integration/storage/test_s3_policy.py tries the policy as it is, on one bucket.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

POLICY = Path(__file__).resolve().parents[1] / "deploy" / "s3-policy.json"


def policy_for(bucket: str) -> dict[str, Any]:
    """The file's policy with BUCKET replaced, as the guide's `sed` does."""
    policy: dict[str, Any] = json.loads(POLICY.read_text("utf-8").replace("BUCKET", bucket))
    return policy


def make_user(access_key: str, secret_key: str, policy: dict[str, Any]) -> None:
    """On the MinIO that the environment names. Raises minio.error.MinioAdminException."""
    from minio import MinioAdmin  # half a second, for one of many that import this module
    from minio.credentials.providers import StaticProvider

    env = os.environ
    admin = MinioAdmin(
        endpoint=env["MINIO_TEST__ENDPOINT"], secure=False,
        credentials=StaticProvider(env["MINIO_TEST__ROOT_USER"], env["MINIO_TEST__ROOT_PASSWORD"]),
    )  # fmt: skip
    name = f"policy-{secrets.token_hex(4)}"
    admin.policy_add(name, policy=policy)
    admin.user_add(access_key, secret_key)
    admin.attach_policy([name], user=access_key)


def main() -> None:
    policy = policy_for("*")
    policy["Statement"].append({"Effect": "Allow", "Action": ["s3:CreateBucket"], "Resource": ["arn:aws:s3:::*"]})
    make_user(os.environ["TEST_STORAGE__ACCESS_KEY"], os.environ["TEST_STORAGE__SECRET_KEY"], policy)


if __name__ == "__main__":
    main()
