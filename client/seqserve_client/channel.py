"""How a client connects: one frozen description that the blocking and the asyncio client share."""

import enum
import json
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from seqserve_client.errors import MessageTooLarge
from seqserve_client.security import Tls, check_token

SERVICE_NAME = "seqserve.v1.Seq2SeqService"
DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 60.0
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
DEFAULT_MAX_MESSAGE_BYTES = 4 * 2**20  # the limit of a gRPC server that was told nothing else


class Unset(enum.Enum):
    """Tells "the client's own timeout" from None, which means no deadline."""

    UNSET = enum.auto()

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings of one client.

    Attributes:
        target: "host:port", or any gRPC name such as "dns:///service:50051".
        timeout: Seconds for one call unless the call says otherwise; None for no deadline.
        max_message_bytes: Largest request and largest answer.
        max_attempts: Most attempts at one call, the first included; 1 turns retries off.
        tls: Files of a TLS connection; True for TLS with the public authorities, None or False for none.
        token: Bearer token that goes with every call. Without TLS, whoever sees the network sees it.
    """

    target: str
    timeout: float | None
    max_message_bytes: int
    max_attempts: int
    tls: Tls | bool | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.max_message_bytes < 1:
            raise ValueError(f"max_message_bytes must be at least 1, not {self.max_message_bytes}")
        if not 1 <= self.max_attempts <= 5:  # gRPC silently caps the number at 5
            raise ValueError(f"max_attempts must be from 1 to 5, not {self.max_attempts}")
        check_token(self.token)
        self.seconds(UNSET)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def open(self) -> grpc.Channel:
        """A blocking channel; raises as ``Tls.credentials`` does."""
        if not self.tls:
            return grpc.insecure_channel(self.target, self.channel_options())
        return grpc.secure_channel(self.target, self._tls.credentials(), self.channel_options())

    def open_aio(self) -> grpc.aio.Channel:
        """A channel of asyncio, for the loop that runs; raises as ``Tls.credentials`` does."""
        if not self.tls:
            return grpc.aio.insecure_channel(self.target, self.channel_options())
        return grpc.aio.secure_channel(self.target, self._tls.credentials(), self.channel_options())

    @property
    def _tls(self) -> Tls:
        return self.tls if isinstance(self.tls, Tls) else Tls()

    def seconds(self, timeout: float | Unset | None) -> float | None:
        """Seconds for a call that asks for ``timeout``."""
        chosen = self.timeout if isinstance(timeout, Unset) else timeout
        if chosen is not None and not chosen >= 0:  # refuses NaN too
            raise ValueError(f"timeout must be at least 0 seconds, or None for no deadline, not {chosen}")
        return chosen

    def check_size(self, request: Message) -> None:
        """Refuse a request that is over the limit, before gRPC sends it, fails and retries."""
        size = request.ByteSize()
        if size > self.max_message_bytes:
            raise MessageTooLarge(
                f"the request has {size} bytes, over the limit of {self.max_message_bytes}; send fewer inputs per call",
                reason="MESSAGE_TOO_LARGE",
                metadata={"bytes": str(size), "max_message_bytes": str(self.max_message_bytes)},
            )

    def channel_options(self) -> list[tuple[str, Any]]:
        """Channel arguments. gRPC ignores misspelt names silently; the tests look at what each one does."""
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # Finds dead connections under calls that wait long. Idle connections are not pinged: servers that do
            # not expect it answer with GOAWAY.
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # Else gRPC 1.81 waits a minute for the answer to a ping, whatever the line above says.
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # gRPC waits up to two minutes before it tries a server again that refused: through a rolling restart of two
            # servers, the first has to be found again before the second goes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.service_config", json.dumps(self.service_config())),
        ]

    def service_config(self) -> dict[str, Any]:
        """Load balancing and retries, both done by gRPC: no second retry loop on top.

        Answers are deterministic and without side effects, so a call may be repeated. CANCELLED is among the codes
        because a server that drains cancels what it cannot finish; a call that this side cancels, or whose deadline
        passes, is never repeated, nor is a stream whose first message came.
        """
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.max_attempts > 1:
            config["methodConfig"] = [
                {
                    "name": [{"service": SERVICE_NAME}],
                    "retryPolicy": {
                        "maxAttempts": self.max_attempts,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "1s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
                    },
                }
            ]
            config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
        return config
