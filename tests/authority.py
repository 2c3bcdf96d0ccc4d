"""Certificates for tests, as files: an authority, and what it signs for this machine or a client."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from seqserve_server.certificates import CertificateFiles


class Authority:
    """An authority whose certificates are written below a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._ca = folder, trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str = "server", *, days: float = 1, starts: float = -1) -> CertificateFiles:
        """A certificate for localhost and 127.0.0.1 that holds from ``starts`` to ``days`` days from now."""
        now = datetime.now(UTC)
        leaf = self._ca.issue_cert(
            "localhost", "127.0.0.1", common_name=name,
            not_before=now + timedelta(days=starts), not_after=now + timedelta(days=days),
        )
        files = CertificateFiles(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        files.key.write_bytes(leaf.private_key_pem.bytes())
        return files
