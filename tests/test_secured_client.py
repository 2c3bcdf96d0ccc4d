"""The shipped client and commands against a server with TLS, client certificates and tokens."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authority import Authority
from cli_process import start
from seqserve_client import AsyncClient, Client, Tls, Unauthenticated, Unavailable
from seqserve_client.channel import Connection
from seqserve_server.certificates import CertificateFiles
from serving import PENCIL_TEXT, Served, serving

TOKEN = "a-token-of-24-characters"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def own(authority: Authority) -> CertificateFiles:
    """The client's certificate."""
    return authority.issue("client")


@pytest.fixture
async def served(authority: Authority, tmp_path: Path) -> AsyncIterator[Served]:
    """A server that asks for everything."""
    files = authority.issue()
    (tmp_path / "tokens").write_text(TOKEN + "\n")
    async with serving(
        tls_cert=files.certificate, tls_key=files.key, tls_client_ca=authority.file,
        auth_tokens_file=tmp_path / "tokens",
    ) as running:
        yield running


def trusting(authority: Authority, own: CertificateFiles) -> Tls:
    return Tls(authority.file, own.certificate, own.key)


async def test_both_clients_get_in_with_certificate_and_token(
    served: Served, authority: Authority, own: CertificateFiles
) -> None:
    target, tls = f"localhost:{served.server.port}", trusting(authority, own)

    def blocking() -> list[str]:
        with Client(target, tls=tls, token=TOKEN, timeout=30) as client:
            assert client.health()
            assert client.info().models[0].name == "pencil"
            return [client.generate(["c d"])[0].text, "".join(chunk.text for chunk in client.stream("c d"))]

    assert await asyncio.to_thread(blocking) == [PENCIL_TEXT, PENCIL_TEXT]
    async with AsyncClient(target, tls=tls, token=TOKEN, timeout=30) as client:
        assert (await client.generate(["c d"]))[0].text == PENCIL_TEXT
        assert "".join([chunk.text async for chunk in client.stream("c d")]) == PENCIL_TEXT


async def test_what_is_missing_is_told_apart(served: Served, authority: Authority, own: CertificateFiles) -> None:
    target, tls = f"localhost:{served.server.port}", trusting(authority, own)

    async def attempt(**security: Any) -> None:
        async with AsyncClient(target, timeout=30, max_attempts=1, **security) as client:
            await client.generate(["c d"])

    for token in (None, "another-token-0123456"):
        with pytest.raises(Unauthenticated) as caught:
            await attempt(tls=tls, token=token)
        assert caught.value.reason == "UNAUTHENTICATED"
    for refused in (None, True, Tls(authority.file), replace(tls, authorities=None)):
        with pytest.raises(Unavailable):
            await attempt(tls=refused, token=TOKEN)


def test_files_that_cannot_be_used_are_named(authority: Authority, own: CertificateFiles, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate=own.certificate)
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match=r"no PEM certificates in .*text"):
        Client("localhost:1", tls=Tls(tmp_path / "text"))
    with pytest.raises(ValueError, match="is not the unencrypted PEM key"):
        Client("localhost:1", tls=Tls(authority.file, own.certificate, authority.issue("other").key))
    with pytest.raises(FileNotFoundError):
        Client("localhost:1", tls=Tls(tmp_path / "missing"))


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "tökén"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        Client("localhost:1", token=token)
    assert not token or token not in str(caught.value)
    assert TOKEN not in repr(Connection("localhost:1", None, 1000, 3, token=TOKEN))


async def command(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; the server runs on in this process meanwhile."""

    def run() -> tuple[int, str, str]:
        variables = f"import os; os.environ.update({environment or {}!r})"
        script = f"{variables}; from seqserve_cli.main import main; sys.exit(main())"
        process = start(*arguments, python=script)
        out, err = process.communicate("", timeout=120)
        return process.returncode, out, err

    return await asyncio.to_thread(run)


async def test_commands_take_files_and_the_token_from_a_file_or_a_variable(
    served: Served, authority: Authority, own: CertificateFiles, tmp_path: Path
) -> None:
    files = ("--tls-ca", str(authority.file), "--tls-cert", str(own.certificate), "--tls-key", str(own.key))
    whom = ("--target", f"localhost:{served.server.port}", *files)
    variable = {"SEQSERVE_TOKEN": TOKEN}
    assert await command("generate", *whom, "c d", environment=variable) == (0, PENCIL_TEXT + "\n", "")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    code, out, _ = await command("info", *whom, "--json", "--token-file", str(tmp_path / "token"))
    assert (code, json.loads(out)["models"][0]["name"]) == (0, "pencil")
    assert (await command("health", *whom))[:2] == (0, "SERVING\n")  # which needs no token
    code, _, err = await command("score", *whom, "--token", "wrong-token-0123456789", "c d", "c")
    assert (code, err) == (1, "seqserve: UNAUTHENTICATED: the call's bearer token is not known\n")
    code, out, _ = await command(
        "bench", *whom, "--requests", "4", "--rate", "inf", "--warmup", "0", "--random-ids", "3", "--processes", "2",
        "--json", environment=variable,
    )
    assert (code, json.loads(out)["completed"]) == (0, 4)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--tls-cert", "x"), "go together"),
    (("--tls-ca", "/nowhere.pem"), "cannot read /nowhere.pem"),
    (("--token-file", "/nowhere"), "cannot read /nowhere"),
    (("--token", "two words"), "visible ASCII"),
])
async def test_options_that_cannot_be_used_are_a_matter_of_usage(arguments: tuple[str, ...], said: str) -> None:
    code, _, err = await command("info", "--target", "127.0.0.1:1", *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
