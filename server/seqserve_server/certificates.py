"""The server's certificate: checked before it is used, and renewed when its files change.

gRPC would log that a key does not fit and let every handshake fail. So each new pair first does a handshake with
itself, in memory, as a client would that trusts just this certificate.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from seqserve_server.errors import StartupError
from seqserve_server.watched_files import WatchedFiles, read_bytes


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the pair is, and the authorities that clients' certificates must come from, if they need one."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self.certificate, self.key, *([self.client_authorities] if self.client_authorities else [])]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a handshake needs, as PEM, and when the server's own certificate ends, in seconds since 1970."""

    chain: bytes
    key: bytes
    expires: float
    client_authorities: bytes | None = None


def read_certificate(files: CertificateFiles) -> Certificate:
    """Read and check.

    Raises:
        StartupError: a file that cannot be read or holds something else, a key of another certificate or with a
            password, or a certificate that is not valid now.
    """
    chain, key = read_bytes(files.certificate, "--tls-cert"), read_bytes(files.key, "--tls-key")
    authorities = None
    if files.client_authorities is not None:
        authorities = read_bytes(files.client_authorities, "--tls-client-ca")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise StartupError(f"--tls-client-ca: no PEM certificates in {files.client_authorities}") from None
    expires = _check(files, chain)
    if (chain, key) != (read_bytes(files.certificate, "--tls-cert"), read_bytes(files.key, "--tls-key")):
        raise StartupError(f"--tls-cert: {files.certificate} changed while it was read")
    return Certificate(chain, key, expires, authorities)


def watched_certificate(files: CertificateFiles) -> WatchedFiles[Certificate]:
    """The certificate, renewed when any of its files changes.

    Raises:
        StartupError: see ``read_certificate``.
    """
    return WatchedFiles("the certificate and its key", files.paths, lambda: read_certificate(files))


def credentials(watched: WatchedFiles[Certificate]) -> grpc.ServerCredentials:
    """Credentials for a port. Every handshake asks for the newest certificate; the authorities are renewed with it."""
    used = watched.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Called in gRPC's threads; None leaves what there is."""
        nonlocal used
        newest = watched.current()
        if newest is used:
            return None
        used = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), renewed,  # type: ignore[arg-type]  # its stub forgets the None that the docs allow
        require_client_authentication=used.client_authorities is not None,
    )


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    pair = (certificate.key, certificate.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=certificate.client_authorities)


def _check(files: CertificateFiles, chain: bytes) -> float:
    """When it ends, in seconds since 1970."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The certificate vouches for itself, authority or not: whether clients trust its issuer is theirs to say.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=chain.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise StartupError(f"--tls-cert: no PEM certificate in {files.certificate}") from None
    try:
        # Without a password the library would ask for one on the terminal.
        server.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _PasswordAsked:
        raise StartupError(f"--tls-key: {files.key} has a password; give one that has none") from None
    except ssl.SSLError as error:
        said = "is not the certificate's key" if "MISMATCH" in (error.reason or "") else "holds no PEM private key"
        raise StartupError(f"--tls-key: {files.key} {said}") from None
    except OSError as error:  # gone since it was read
        raise StartupError(f"--tls-key: cannot read {files.key}: {error.strerror}") from None
    try:
        return _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        raise StartupError(
            f"--tls-cert: {files.certificate}: {error.verify_message}; the time here is {now}"
        ) from None
    except ssl.SSLError as error:
        raise StartupError(f"--tls-cert: {files.certificate} cannot be used: {error.reason}") from None


class _PasswordAsked(Exception):
    """The key is encrypted."""


def _no_password() -> str:
    raise _PasswordAsked


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """A handshake in memory. Returns when the server's certificate ends, in seconds since 1970."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    ends = [asking, server.wrap_bio(to_server, to_client, server_side=True)]
    while ends:
        waiting = []
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(end)
        ends = waiting
    shown = asking.getpeercert() or {}  # never empty: the handshake is over, and asked for a certificate
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))
