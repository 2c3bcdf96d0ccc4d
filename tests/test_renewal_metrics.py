"""What a scrape tells of certificates and tokens while they are renewed under a live server."""

import math
import shutil
import ssl
from pathlib import Path

import pytest

from authority import Authority
from seqserve_server import watched_files
from seqserve_server.certificates import read_certificate
from serving import serving
from test_metrics_scrape import Page, scrape

EXPIRY = "seqserve_certificate_expiry_timestamp_seconds"
COUNTER = "seqserve_file_renewals_total"
DAY = 86400.0


@pytest.fixture(autouse=True)
def looked_at_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "RECHECK_SECONDS", 0.0)


def renewals(page: Page, file: str) -> dict[str, float]:
    return {result: page.value(COUNTER, file=file, result=result) for result in ("renewed", "refused")}


async def test_without_tls_nothing_ends() -> None:
    async with serving() as served:
        page = await scrape(served)
    assert page.value(EXPIRY) == math.inf
    assert renewals(page, "certificate") == renewals(page, "tokens") == {"renewed": 0, "refused": 0}


def test_the_end_is_that_of_the_servers_own_certificate(tmp_path: Path) -> None:
    """Not of its issuer, which is in the chain and lives longer."""
    authority = Authority(tmp_path)
    files = authority.issue(days=2)
    files.certificate.write_bytes(files.certificate.read_bytes() + authority.file.read_bytes())
    found = read_certificate(files)
    days = (found.expires - read_certificate(authority.issue("sooner", days=1)).expires) / DAY
    assert days == pytest.approx(1, abs=0.01)
    (issuer,) = (each for each in _decoded(authority.file))
    assert ssl.cert_time_to_seconds(issuer) > found.expires


def _decoded(file: Path) -> list[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(file)
    return [str(each["notAfter"]) for each in context.get_ca_certs()]


async def test_a_scrape_sees_renewals_and_refusals_each_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files, later = authority.issue(days=1), authority.issue("later", days=30)
    tokens = tmp_path / "tokens"
    tokens.write_text("a" * 32)
    async with serving(tls_cert=files.certificate, tls_key=files.key, auth_tokens_file=tokens) as served:
        first = await scrape(served)
        shutil.copy(later.certificate, files.certificate)  # its key is not there yet
        tokens.write_text("short")
        for _ in range(3):
            page = await scrape(served)
            assert renewals(page, "certificate") == renewals(page, "tokens") == {"renewed": 0, "refused": 1}
            assert page.value(EXPIRY) == first.value(EXPIRY)
        shutil.copy(later.key, files.key)
        tokens.write_text("b" * 32)
        page = await scrape(served)
        assert renewals(page, "certificate") == renewals(page, "tokens") == {"renewed": 1, "refused": 1}
        assert (page.value(EXPIRY) - first.value(EXPIRY)) / DAY == pytest.approx(29, abs=0.01)
