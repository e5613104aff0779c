"""The throw-away authority, judged by OpenSSL."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest

from tests.google.certificates import Authority

LONG = "a-region-with-a-name-as-long-as-no-other-aiplatform.googleapis.com"


def shake_hands(server: Path, trusted: Path, host: str) -> None:
    """Raises: ssl.SSLError where a client of ``host`` that trusts ``trusted`` does not take the server's certificate."""
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(trusted))
    serving.load_cert_chain(server)
    calling.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [calling.wrap_bio(back, there, server_hostname=host), serving.wrap_bio(there, back, server_side=True)]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize("host", ["dataflow.googleapis.com", LONG])
def test_a_host_is_known_by_its_certificate(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path)
    shake_hands(authority.issue(host), authority.bundle, host)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(authority.issue(host), authority.bundle, "storage.googleapis.com")


def test_one_certificate_may_be_for_several_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("www.googleapis.com", "storage.googleapis.com")
    for host in ("www.googleapis.com", "storage.googleapis.com"):
        shake_hands(certificate, authority.bundle, host)


def test_another_authority_s_certificate_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, authority = Authority(tmp_path / "other"), Authority(tmp_path)
    for trusted in (other.bundle, Path(certifi.where())):
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            shake_hands(authority.issue("a.googleapis.com"), trusted, "a.googleapis.com")


def test_a_host_s_certificate_signs_no_others(tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(Authority(tmp_path).issue("a.googleapis.com")))
    assert context.get_ca_certs() == []


def test_the_usual_authorities_are_trusted_as_ever(tmp_path: Path) -> None:
    def known(path: Path | str) -> set[str]:
        return {str(found["serialNumber"]) for found in ssl.create_default_context(cafile=str(path)).get_ca_certs()}

    bundle = Authority(tmp_path).bundle
    assert known(certifi.where()) < known(bundle) and len(known(bundle)) == len(known(certifi.where())) + 1
