"""The gRPC ports: how they are opened, for whom, and what one connection or message may cost."""

import contextlib
import ipaddress
import logging
import resource
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from seqserve_server.authentication import HEALTH_METHODS, AuthenticationInterceptor, watched_tokens
from seqserve_server.boundary import BoundaryInterceptor
from seqserve_server.certificates import Certificate, CertificateFiles, credentials, watched_certificate
from seqserve_server.config import ServerConfig
from seqserve_server.errors import ConfigError, StartupError
from seqserve_server.tokens import Token
from seqserve_server.watched_files import WatchedFiles

logger = logging.getLogger(__name__)
OWN_DESCRIPTORS = 128  # what a server has open beside its connections: measured 40, with a margin for files and metrics
HEALTH_CONNECTIONS = 64
# gRPC looks at a message's size after it has inflated it, all of it: 600 KiB of gzip took 900 MiB. So calls that are
# compressed are refused; and should one come by in whatever order, nothing is inflated.
NO_COMPRESSION = [("grpc.compression_enabled_algorithms_bitset", 1), ("grpc.per_message_decompression", 0)]
# A client that is gone without a word, its machine or the network, is known by pings that nobody answers: after so long
# without a byte from it one is sent, and so long after that the connection is closed, and with it end its calls; by
# default after two hours, in which rows are in use. No setting: what a ping costs is too little to choose, and a client
# that stands still for ten seconds under a call is rare and may ask again.
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 15_000, 10_000
HANDSHAKE_MS = 20_000  # gRPC's default is two minutes, in which a connection that says nothing would hold a place


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is asked of callers and shown to them; None where nothing is."""

    tokens: WatchedFiles[tuple[Token, ...]] | None = None
    certificate: WatchedFiles[Certificate] | None = None


def read_secrets(config: ServerConfig) -> Secrets:
    """Read the files of tokens and certificates for the first time.

    Raises:
        StartupError: an address that needs TLS, a file of tokens that is none, or a certificate that cannot be used.
    """
    check_address(config)
    tokens = certificate = None
    if config.auth_tokens_file is not None:
        tokens = watched_tokens(config.auth_tokens_file)
    if config.tls_cert is not None and config.tls_key is not None:
        certificate = watched_certificate(CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca))
    return Secrets(tokens, certificate)


def make_server(
    config: ServerConfig, secrets: Secrets, outer: grpc.aio.ServerInterceptor, door: grpc.aio.ServerInterceptor
) -> grpc.aio.Server:
    """A server without services or ports, with its interceptors.

    After the outer one comes authentication, then who is refused for want of room: both before a message is read. Last
    is what keeps exceptions from the wire.
    """
    interceptors = [outer]
    if secrets.tokens is not None:
        exempt = () if config.auth_health else HEALTH_METHODS
        interceptors.append(AuthenticationInterceptor(secrets.tokens, exempt=exempt))
    interceptors += [door, BoundaryInterceptor()]
    return grpc.aio.server(interceptors=interceptors, options=channel_options(config))


def channel_options(config: ServerConfig) -> list[tuple[str, Any]]:
    """Channel arguments. gRPC ignores misspelt names silently; the tests look at what each one does."""
    age = config.max_connection_age_seconds
    return [
        ("grpc.so_reuseport", 0),  # else a second server on the port starts silently and takes half the calls
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_answer_bytes),
        *NO_COMPRESSION,
        # Over the first, a call is refused at random, more often the larger it is; so the two are the same.
        ("grpc.max_metadata_size", config.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", config.max_metadata_bytes),
        ("grpc.max_concurrent_streams", config.max_streams),
        ("grpc.max_allowed_incoming_connections", affordable_connections(config.max_connections)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        *keepalive(),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        *([("grpc.max_connection_age_ms", age * 1000),
           ("grpc.max_connection_age_grace_ms", config.max_connection_grace_seconds * 1000)] if age else []),
    ]


def keepalive() -> list[tuple[str, int]]:
    """Channel arguments by which connections are closed whose other end is gone, calls or none."""
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without it gRPC 1.81 waits a minute for the answer to any ping, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def open_port(server: grpc.aio.Server, config: ServerConfig, secrets: Secrets) -> int:
    """Listen, with TLS where there is a certificate; the port that it became, where 0 was asked for.

    Raises:
        StartupError: the address is in use or not allowed.
    """
    address = address_of(config.host, config.port)
    try:
        if secrets.certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials(secrets.certificate))
    except RuntimeError:
        raise StartupError(f"--port: cannot listen on {address}: in use or not allowed") from None


@contextlib.asynccontextmanager
async def health_port(config: ServerConfig, servicer: health.aio.HealthServicer) -> AsyncIterator[int | None]:
    """A port for probes that speak neither TLS nor tokens, as those of Kubernetes: health and nothing else.

    A server of its own, so that connections to the other port, however many, leave probes their place.
    """
    if config.health_port is None:
        yield None
        return
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", 1024),
        *NO_COMPRESSION,
        ("grpc.max_concurrent_streams", 16),
        ("grpc.max_allowed_incoming_connections", HEALTH_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        *keepalive(),
    ]
    server = grpc.aio.server(options=options)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = address_of(config.host, config.health_port)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise StartupError(f"--health-port: cannot listen on {address}: in use or not allowed") from None
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def address_of(host: str, port: int) -> str:
    """Host and port as one; an IPv6 address needs its brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def check_address(config: ServerConfig) -> None:
    """Whoever reaches a port without TLS reads everything, so that only this machine does by default.

    Raises:
        ConfigError: other machines reach the address, there is no certificate, and nobody said that it is meant so.
    """
    if is_loopback(config.host):
        return
    if config.tls_cert is None:
        if not config.insecure:
            raise ConfigError(
                f"--host: {config.host} is reached from other machines, and there is no TLS: "
                "give --tls-cert and --tls-key, or --insecure where the network is trusted"
            )
        tokens = ", and so do the tokens" if config.auth_tokens_file is not None else ""
        logger.warning("--insecure: requests and answers cross the network as they are%s", tokens)
    if config.auth_tokens_file is None and config.tls_client_ca is None:
        logger.warning("whoever reaches %s may use this server: it asks for neither tokens nor certificates",
                       config.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name is what it resolves to, all of it."""
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(bare, None)}
    except OSError:
        return False  # it cannot be listened on either, which is said later
    return all(ipaddress.ip_address(each).is_loopback for each in found)


def affordable_connections(wanted: int) -> int:
    """As many connections as there are file descriptors for, after raising the soft limit where the hard one lets us.

    Without a descriptor no connection can be accepted, not even to be closed: clients would hang. So fewer are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OWN_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    affordable = max(1, soft - OWN_DESCRIPTORS)
    logger.warning("--max-connections: %d, not %d: this process may have %d open files", affordable, wanted, soft)
    return affordable
