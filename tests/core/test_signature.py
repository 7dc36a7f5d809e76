"""Signatures, held against published values and against the reference implementation."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from worker.core.signature import is_well_known, key_of, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
KEYS = st.binary(min_size=24, max_size=64)
IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def test_the_published_example_of_the_specification_is_met() -> None:
    signature = sign(key_of(SecretStr(SECRET)), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(KEYS, IDS, st.text().map(str.encode))
def test_what_we_sign_the_reference_implementation_accepts(key: bytes, message_id: str, body: bytes) -> None:
    now = datetime.now(UTC)
    reference = Webhook("whsec_" + base64.b64encode(key).decode())
    signature = sign(key, message_id, int(now.timestamp()), body)
    assert signature == reference.sign(message_id, now, body.decode())
    reference.verify(body, headers(message_id, int(now.timestamp()), signature), json_parse=False)


def headers(message_id: str, timestamp: int, signature: str) -> dict[str, str]:
    """Return what a webhook request carries."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


@pytest.mark.parametrize(
    ("message_id", "body"), [("msg_2", BODY), ("msg_1", BODY + b" ")], ids=["another id", "another body"]
)
def test_a_signature_is_good_for_one_id_and_one_body_only(message_id: str, body: bytes) -> None:
    now = int(datetime.now(UTC).timestamp())
    signature = sign(key_of(SecretStr(SECRET)), "msg_1", now, BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers(message_id, now, signature))


@given(KEYS, st.sampled_from(["whsec_", ""]))
def test_a_secret_is_read_with_its_prefix_and_without(key: bytes, prefix: str) -> None:
    assert key_of(SecretStr(prefix + base64.b64encode(key).decode())) == key


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "hunter2", "whsec_hunter2!", "whsec_a", "hünter2", "whsec_ YQ=="]
)
def test_what_is_no_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="is not whsec_ followed by base64; make one with") as caught:
        key_of(SecretStr(secret))
    assert "nter2" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("size", [1, 23, 65, 1000])
def test_a_key_is_as_long_as_the_specification_says(size: int) -> None:
    with pytest.raises(ValueError, match=f"stands for {size} bytes; it must be 24 to 64; make one with"):
        key_of(SecretStr("whsec_" + base64.b64encode(bytes(size)).decode()))


def test_the_secret_of_the_manifests_example_is_known_to_everybody() -> None:
    example = Path(__file__).parents[2] / "k8s" / "secret.example.yaml"
    secret = yaml.safe_load(example.read_text(encoding="utf-8"))["stringData"]["sink__signing_secret"]
    assert is_well_known(key_of(SecretStr(secret)))
    assert not is_well_known(key_of(SecretStr(SECRET)))
