"""Who may connect to a cluster: TLS with temporary certificates wherever it can be reached from other hosts."""

from __future__ import annotations

import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from stabdask.errors import ClusterError, UsageError

__all__ = ["address_security", "is_loopback", "security_files", "temporary_security"]

Security: TypeAlias = Any
"""A ``distributed.security.Security``, which has no types."""

_ROLES = ("client", "scheduler", "worker")


def is_loopback(host: str) -> bool:
    """Return whether only processes of this host can connect to what listens at `host`.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("10.0.0.7"), is_loopback("0.0.0.0")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def temporary_security() -> Security:
    """Return a key and certificate made now, in memory: who does not have them cannot connect.

    Raises
    ------
    ClusterError
        If cryptography is missing, which makes them.
    """
    from distributed.security import Security as Made

    try:
        return Made.temporary(tls_min_version=ssl.TLSVersion.TLSv1_3)
    except ImportError as error:
        raise ClusterError(
            f"no certificates can be made ({error}), and without them a cluster that other hosts can reach is not "
            "started; pip install cryptography"
        ) from error


@contextmanager
def security_files(shared_folder: Path) -> Iterator[Security]:
    """Give temporary security whose key and certificate are files that workers on other hosts can read.

    The files have mode 0600, in a folder of mode 0700 in `shared_folder`, and are gone when the block ends.

    Raises
    ------
    ClusterError
        If they cannot be written.
    """
    from distributed.security import Security as Made

    made = temporary_security()
    try:
        shared_folder.mkdir(parents=True, exist_ok=True)
        context = tempfile.TemporaryDirectory(prefix=".stabdask-tls-", dir=shared_folder)
    except OSError as error:
        raise ClusterError(
            f"certificates for workers cannot be written in {shared_folder} ({error.strerror or error}); choose a "
            "folder that all hosts see with shared_folder"
        ) from error
    with context as name:
        certificate = _private_file(Path(name) / "certificate.pem", made.tls_worker_cert)
        key = _private_file(Path(name) / "key.pem", made.tls_worker_key)
        files: dict[str, Any] = {}
        for role in _ROLES:
            files |= {f"tls_{role}_cert": certificate, f"tls_{role}_key": key}
        yield Made(
            require_encryption=True, tls_ca_file=certificate, tls_min_version=made.tls_min_version, **files
        )


def _private_file(path: Path, text: str) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    return str(path)


def address_security(
    address: str, *, ca: str | None, cert: str | None, key: str | None, insecure_tcp: bool
) -> Security | None:
    """Return what to connect to a scheduler with: certificates for ``tls://``, None for ``tcp://``.

    Raises
    ------
    UsageError
        If the address is not one of a scheduler, or a plain one that is not on this host and not explicitly allowed.
    ClusterError
        If there are no certificates, or they cannot be read.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("tls", "tcp") or not parts.hostname:
        raise UsageError(
            f"{address!r} is no address of a scheduler; expected tls://HOST:PORT or tcp://127.0.0.1:PORT"
        )
    if parts.scheme == "tcp":
        if ca or cert or key:
            raise UsageError(
                f"certificates were given for {address}, which does not use them; expected tls://"
            )
        if not is_loopback(parts.hostname) and not insecure_tcp:
            raise UsageError(
                f"{address} is neither on this host nor encrypted: whoever can reach it can run any code as you, on "
                "the workers, and read what passes; start the scheduler with TLS and give tls://, or come through an "
                "SSH tunnel as tcp://127.0.0.1:PORT, or, in a network where nobody else is, say --insecure-tcp "
                "(insecure_tcp=True)"
            )
        return None
    from distributed.security import Security as Made

    given = {"tls_ca_file": ca, "tls_client_cert": cert, "tls_client_key": key}
    for path in filter(None, given.values()):
        if not os.access(path, os.R_OK):
            raise ClusterError(f"the certificate or key {path} is not there or cannot be read")
    security: Security = Made(require_encryption=True, **{name: path for name, path in given.items() if path})
    lacking = [
        option
        for option, value in (("--tls-ca", security.tls_ca_file), ("--tls-cert", security.tls_client_cert))
        if not value
    ]
    if lacking:
        raise ClusterError(
            f"no certificates to connect to {address} with: {' and '.join(lacking)} missing; give them, and --tls-key "
            "(tls_ca=, tls_cert=, tls_key=), or set distributed.comm.tls in Dask's configuration"
        )
    try:
        security.get_connection_args("client")
    except (ssl.SSLError, OSError) as error:
        raise ClusterError(f"the certificates for {address} cannot be used: {error}") from error
    return security
