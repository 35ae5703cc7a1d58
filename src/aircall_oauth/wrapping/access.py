"""How the key services are reached."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr


@dataclass(frozen=True)
class Access:
    """What the settings say of the key services; what AWS needs, its own library finds (`AWS_…`)."""

    vault_addr: str
    vault_token: SecretStr
    vault_role: str  # logs in with the pod's own token instead of a token of Vault's
    vault_auth_mount: str
    vault_jwt_file: Path
    vault_namespace: str
    vault_cacert: str
    seconds: float  # how long is tried
