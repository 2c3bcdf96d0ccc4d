"""The server's certificate: what is refused before it is used, and what a live server does when the files change."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from authority import Authority
from seqserve.v1 import seq2seq_pb2 as pb
from seqserve_server import watched_files
from seqserve_server.certificates import CertificateFiles, read_certificate
from seqserve_server.errors import StartupError
from serving import PENCIL_TEXT, ask, make_stub, serving


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_good_pair_is_read_whole(authority: Authority) -> None:
    files = authority.issue()
    certificate = read_certificate(replace(files, client_authorities=authority.file))
    assert (certificate.chain, certificate.key) == (files.certificate.read_bytes(), files.key.read_bytes())
    assert certificate.client_authorities == authority.file.read_bytes()
    assert read_certificate(files).client_authorities is None


def encrypted(files: CertificateFiles) -> None:
    subprocess.run(
        ["openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", f"{files.key}.new"],
        check=True, capture_output=True,
    )
    os.replace(f"{files.key}.new", files.key)


DAMAGES: dict[str, tuple[Any, str]] = {
    "no certificate": (lambda files, other: files.certificate.unlink(), "--tls-cert: cannot read .*: No such file"),
    "no key": (lambda files, other: files.key.unlink(), "--tls-key: cannot read .*: No such file"),
    "an empty certificate": (lambda files, other: files.certificate.write_bytes(b""), "--tls-cert: no PEM certificate"),
    "bytes for a certificate": (
        lambda files, other: files.certificate.write_bytes(bytes(range(256))), "--tls-cert: no PEM certificate",
    ),
    "half a certificate": (
        lambda files, other: files.certificate.write_bytes(files.certificate.read_bytes()[:200]), "no PEM certificate",
    ),
    "text for a key": (lambda files, other: files.key.write_text("key"), "--tls-key: .* holds no PEM private key"),
    "the key of another": (
        lambda files, other: shutil.copy(other.key, files.key), "--tls-key: .* is not the certificate's key",
    ),
    "a certificate for a key": (
        lambda files, other: shutil.copy(files.certificate, files.key), "--tls-key: .* holds no PEM private key",
    ),
    "no authorities": (
        lambda files, other: files.client_authorities.write_text("none"), "--tls-client-ca: no PEM certificates in",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_used_is_named(damage: str, authority: Authority, tmp_path: Path) -> None:
    shutil.copy(authority.file, tmp_path / "clients.pem")
    files = replace(authority.issue(), client_authorities=tmp_path / "clients.pem")
    change, said = DAMAGES[damage]
    change(files, authority.issue("other"))
    with pytest.raises(StartupError, match=said):
        read_certificate(files)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="encrypts the key with openssl, which is not installed")
def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority: Authority) -> None:
    files = authority.issue()
    encrypted(files)
    with pytest.raises(StartupError, match=r"--tls-key: .* has a password"):
        read_certificate(files)


@pytest.mark.parametrize(("starts", "days", "said"), [
    (-3, -1, "certificate has expired; the time here is 20"), (1, 2, "certificate is not yet valid; the time here is"),
])
def test_a_certificate_out_of_its_time_is_refused(
    starts: float, days: float, said: str, authority: Authority
) -> None:
    with pytest.raises(StartupError, match=said):
        read_certificate(authority.issue(starts=starts, days=days))


def channel(port: int, authorities: Path, client: CertificateFiles | None = None) -> grpc.aio.Channel:
    own = (client.key.read_bytes(), client.certificate.read_bytes()) if client else ()
    return grpc.aio.secure_channel(
        f"localhost:{port}", grpc.ssl_channel_credentials(authorities.read_bytes(), *own),
        [("grpc.use_local_subchannel_pool", 1)],
    )


async def answers(port: int, authorities: Path, client: CertificateFiles | None = None) -> bool:
    """Whether a new connection that believes these authorities gets the right answer; else it was not made."""
    async with channel(port, authorities, client) as connected:
        call = make_stub(connected).Generate(ask("c d"))
        if await call.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        assert (await call).results[0].hypotheses[0].text == PENCIL_TEXT
        return True


async def test_a_server_with_a_certificate_speaks_nothing_but_tls(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue()
    async with serving(tls_cert=files.certificate, tls_key=files.key) as served:
        assert await answers(served.server.port, authority.file)
        assert not await answers(served.server.port, Authority(tmp_path / "other").file)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.GetModelInfo(pb.GetModelInfoRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_with_client_authorities_only_their_clients_come_in(authority: Authority, tmp_path: Path) -> None:
    files, clients = authority.issue(), Authority(tmp_path / "clients")
    stranger = Authority(tmp_path / "strangers").issue("client")
    async with serving(
        tls_cert=files.certificate, tls_key=files.key, tls_client_ca=clients.file
    ) as served:
        port = served.server.port
        assert await answers(port, authority.file, clients.issue("client"))
        assert not await answers(port, authority.file)
        assert not await answers(port, authority.file, stranger)
        assert not await answers(port, authority.file, clients.issue("old", starts=-2, days=-1))


async def test_renewed_files_are_used_without_a_restart_and_bad_ones_are_not(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched_files, "RECHECK_SECONDS", 0.0)
    files, renewing = authority.issue(), Authority(tmp_path / "renewing")
    clients = tmp_path / "clients.pem"
    shutil.copy(authority.file, clients)
    client = authority.issue("client")
    async with serving(tls_cert=files.certificate, tls_key=files.key, tls_client_ca=clients) as served:
        port = served.server.port
        async with channel(port, authority.file, client) as held:
            assert (await make_stub(held).Generate(ask("c d"))).results
            renewed = renewing.issue()
            shutil.copy(renewed.certificate, files.certificate)  # its key is not there yet
            assert await answers(port, authority.file, client)
            assert "the certificate and its key stay as they were" in caplog.text
            shutil.copy(renewed.key, files.key)
            assert await answers(port, renewing.file, client)
            assert not await answers(port, authority.file, client)
            shutil.copy(renewing.file, clients)
            assert not await answers(port, renewing.file, client)
            assert await answers(port, renewing.file, renewing.issue("client"))
            expired = renewing.issue("expired", starts=-3, days=-1)
            shutil.copy(expired.key, files.key)
            shutil.copy(expired.certificate, files.certificate)
            assert await answers(port, renewing.file, renewing.issue("client"))
            assert "expired" in caplog.text
            # Who was connected before stays so.
            assert (await make_stub(held).Generate(ask("c d"))).results


async def test_a_server_does_not_start_with_a_bad_certificate(authority: Authority) -> None:
    files = authority.issue()
    files.key.write_text("none")
    with pytest.raises(StartupError, match="--tls-key"):
        async with serving(tls_cert=files.certificate, tls_key=files.key):
            pass
