"""Talking to a bucket: a client made from the environment, and what its errors mean.

Credentials and endpoint are obstore's business, which reads them from the environment of each process (or asks the
machine for its role). Nothing here holds, stores or shows them: messages are put together from status codes, never
from the text of a response or of a request.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any

from stabdask.errors import (
    BackendUnavailableError,
    InputError,
    OutputError,
    StabdaskError,
    UnreachableInputError,
    UnreachableOutputError,
    UsageError,
)

__all__ = ["PART_BYTES", "client", "is_absent", "obstore_module", "translated"]

PART_BYTES = 16 * 2**20
"""Larger objects are uploaded in parts of this size; smaller ones in one request."""

_RETRY_VARIABLE = "STABDASK_S3_RETRY_S"
_RETRY_S = 180.0
_MOST_RETRIES = 30
_REQUEST_S = 60.0
_CONNECT_S = 5.0

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_METADATA_SERVICE = re.compile(r"169\.254\.1[67]\.|/latest/(api|meta-data)/|/v2/credentials|AssumeRole")
_CREDENTIALS = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN in the environment (profiles in ~/.aws are "
    "not read) or the role of the machine, and that it may list, get, put and delete objects there"
)


def obstore_module() -> Any:
    """Return obstore, loaded on first use.

    Raises
    ------
    BackendUnavailableError
        If it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
    except ImportError as error:
        raise BackendUnavailableError(
            f"places in buckets (s3://...) need obstore, which cannot be imported ({error}); pip install 'stabdask[s3]'"
        ) from error
    return obstore


def client(bucket: str) -> Any:
    """Return the obstore client of a bucket: one in each process, another when the environment changes."""
    settings = hash(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))
    return _client(bucket, _retry_seconds(), os.getpid(), settings)


@lru_cache(maxsize=8)
def _client(bucket: str, retry_s: float, process: int, settings: int) -> Any:
    obstore_module()
    from obstore.store import S3Store

    backoff: Any = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=15), "base": 2}
    try:
        return S3Store(
            bucket,
            client_options={
                "timeout": timedelta(seconds=_REQUEST_S),
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                # Options given here take the place of all that the environment says of them.
                "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "on", "yes", "y"),
            },
            retry_config={
                "max_retries": _MOST_RETRIES,
                "retry_timeout": timedelta(seconds=retry_s),
                "backoff": backoff,
            },
        )
    except obstore_module().exceptions.BaseError as error:
        raise UsageError(
            f"no client for the bucket {bucket} can be made from the environment ({type(error).__name__}); check the "
            "variables that begin with AWS_"
        ) from None


def _retry_seconds() -> float:
    text = os.environ.get(_RETRY_VARIABLE, "")
    try:
        seconds = float(text) if text else _RETRY_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise UsageError(f"{_RETRY_VARIABLE}={text!r}; expected seconds, from 0 to 86400")
    return seconds


def is_absent(error: BaseException) -> bool:
    """Return whether an error of a client says that there is no such object, in a bucket that there is."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)


def translated(error: BaseException, bucket: str, key: str, *, writing: bool) -> StabdaskError:
    """Return what an error of a client means, with bucket, key and what to do."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    number = int(status[1]) if status else 0
    found = " ".join(part[1] for part in (status, code) if part)
    place = f"s3://{bucket}/{key}"
    verb = "write" if writing else "read"
    permanent: type[StabdaskError] = OutputError if writing else InputError
    exceptions = obstore_module().exceptions
    if code and code[1] == "NoSuchBucket":
        return permanent(
            f"cannot {verb} {place}: there is no bucket {bucket!r} at {_endpoint()}; check its name, AWS_ENDPOINT_URL "
            "and AWS_REGION"
        )
    if _METADATA_SERVICE.search(text):
        return permanent(f"cannot {verb} {place}: no credentials were found; {_CREDENTIALS}")
    denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, denied) or number in (401, 403) or (code and "Token" in code[1]):
        return permanent(
            f"cannot {verb} {place}: the request was refused ({found or 'denied'}); {_CREDENTIALS}"
        )
    if "redirect" in text.lower() or number in (301, 307):
        return permanent(
            f"cannot {verb} {place}: the bucket is in another region than the one asked; set AWS_REGION"
        )
    if "URL scheme is not allowed" in text or "builder error" in text:
        return permanent(
            f"cannot {verb} {place}: {_endpoint()} cannot be asked; check AWS_ENDPOINT_URL, and set "
            "AWS_ALLOW_HTTP=true where it begins with http:"
        )
    if number >= 500 or number == 429 or not number:
        why = f"it answered {found}" if number else _trouble(text)
        unreachable = UnreachableOutputError if writing else UnreachableInputError
        return unreachable(
            f"cannot {verb} {place} at {_endpoint()}: {why}, also when asked again for {_retry_seconds():g} s; run the "
            f"same command again when it answers: what is finished is kept ({_RETRY_VARIABLE} says how long to ask)"
        )
    return permanent(f"cannot {verb} {place}: the request was refused ({found})")


def _trouble(text: str) -> str:
    lower = text.lower()
    for word, meaning in (
        ("timed out", "it did not answer in time"),
        ("timeout", "it did not answer in time"),
        ("dns", "its name is not known"),
        ("connection refused", "the connection was refused"),
        ("kind: connect", "no connection could be made"),
    ):
        # The configured limits are in every text under names such as retry_timeout.
        if re.search(rf"(?<![a-z_]){word}", lower):
            return meaning
    return "the connection failed"


def _endpoint() -> str:
    """Return the host that is asked, without what else its address may hold."""
    text = (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or os.environ.get("AWS_ENDPOINT")
    )
    if not text:
        return "AWS"
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.hostname or 'the endpoint'}{port}"
