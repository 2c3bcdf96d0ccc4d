"""How a client makes sure of the server, and shows the server who it is itself."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a TLS connection, all PEM. They are read when the client connects for the first time.

    Attributes:
        authorities: Whose certificates are believed; None for the public authorities that gRPC brings along.
        certificate: The client's own, with its chain, for servers that want one (mTLS).
        key: Its private key, not encrypted.
    """

    authorities: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file holds something else, or the key is not the certificate's.
        """
        parts = _read(self.authorities), _read(self.key), _read(self.certificate)  # first: its errors name the file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.authorities is not None:
            try:
                context.load_verify_locations(self.authorities)
            except ssl.SSLError:
                raise ValueError(f"no PEM certificates in {self.authorities}") from None
        if self.certificate is not None and self.key is not None:
            try:
                # Without a password the library would ask for one on the terminal; an empty one fits no key.
                context.load_cert_chain(self.certificate, self.key, password="")
            except ssl.SSLError:
                message = f"{self.key} is not the unencrypted PEM key of the certificate in {self.certificate}"
                raise ValueError(message) from None
        return grpc.ssl_channel_credentials(*parts)


def check_token(token: str | None) -> None:
    """Refuse what cannot be sent; the message does not show it.

    Raises:
        ValueError: empty, or other characters than visible ASCII.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise ValueError("a token has visible ASCII characters only, and at least one")


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
