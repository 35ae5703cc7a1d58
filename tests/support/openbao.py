"""OpenBao's own server, over TLS with a certificate of its own, in memory."""

import base64
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from aircall_oauth.sandbox.ports import free_port
from tests.support.brokers import Certificate
from tests.support.tools import tool

START_SECONDS = 30.0
CONFIGURATION = """
storage "inmem" {{}}
listener "tcp" {{
    address = "127.0.0.1:{port}"
    tls_cert_file = "{certificate.certificate}"
    tls_key_file = "{certificate.key}"
}}
disable_mlock = true
api_addr = "https://127.0.0.1:{port}"
"""


@dataclass
class OpenBao:
    """A server that was initialised and unsealed."""

    address: str
    cacert: Path
    client: httpx.Client
    unseal_key: str = ""
    root_token: str = ""

    @classmethod
    @contextmanager
    def run(cls, folder: Path) -> Iterator["OpenBao"]:
        certificate, port = Certificate.make(folder), free_port()
        (folder / "bao.hcl").write_text(CONFIGURATION.format(port=port, certificate=certificate))
        command = (tool("bao"), "server", f"-config={folder / 'bao.hcl'}")
        with (folder / "bao.log").open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as server:
            address = f"https://127.0.0.1:{port}"
            try:
                trusted = ssl.create_default_context(cafile=str(certificate.certificate))
                with httpx.Client(base_url=f"{address}/v1/", verify=trusted) as client:
                    it = cls(address, certificate.certificate, client)
                    it._begin(server)
                    yield it
            finally:
                server.kill()

    def _begin(self, server: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                told = self.ask("PUT", "sys/init", secret_shares=1, secret_threshold=1)
                break
            except httpx.TransportError:
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.05)
        self.unseal_key, self.root_token = told["keys"][0], told["root_token"]
        self.client.headers["X-Vault-Token"] = self.root_token
        self.unseal()

    def ask(self, method: str, path: str, *, namespace: str = "", **body: Any) -> Any:
        """Ask as root; what it answered."""
        answer = self.client.request(method, path, json=body or None, headers={"X-Vault-Namespace": namespace})
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def token_for(self, policy: str) -> str:
        token: str = self.ask("POST", "auth/token/create", policies=[policy])["auth"]["client_token"]
        return token

    def seal(self) -> None:
        self.ask("PUT", "sys/seal")

    def unseal(self) -> None:
        self.ask("PUT", "sys/unseal", key=self.unseal_key)

    def environment(self, token: str) -> dict[str, str]:
        """What the settings say of it, as `settings_for` takes them."""
        return {"VAULT_ADDR": self.address, "VAULT_CACERT": str(self.cacert), "VAULT_TOKEN": token}


class ServiceAccount:
    """A cluster that signs tokens of pods."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> str:
        return (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def token(self, subject: str, audience: str) -> str:
        claims = {"sub": subject, "aud": audience, "iat": int(time.time()), "exp": int(time.time()) + 600}
        signed = ".".join(_text(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
