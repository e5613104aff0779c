"""A service account's key file that opens nothing: its tokens come from this machine.

Without credentials Google's libraries search for some, up to 23 seconds in every process.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_key_file(path: Path, token_uri: str) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    content = {
        "type": "service_account",
        "project_id": "test-project",
        "private_key_id": "0",
        "private_key": pem.decode(),
        "client_email": "nobody@test-project.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(content))
    return path
