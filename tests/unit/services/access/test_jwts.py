"""JWTs: what holds, and every known way to make one that should not."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey
from pydantic import SecretStr

from config import AuthSettings
from models.access import ALL_CAMERAS, NO_CAMERAS, CameraGrant, Scope
from services.access import jwks
from services.access.jwks import KeySource
from services.access.jwts import TokenVerifier
from utils.exceptions import Unauthorized

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "https://issuer.example", "trackshift"
SECRET = "a secret that is longer than thirty-two characters"
RSA, EC, ED = RSAKey.generate_key(2048), ECKey.generate_key("P-256"), OKPKey.generate_key("Ed25519")
OTHER = RSAKey.generate_key(2048)
KEYS: dict[str, Any] = {"rsa": RSA, "ec": EC, "ed": ED}


def public_set() -> bytes:
    return json.dumps({"keys": [{**key.as_dict(private=False), "kid": kid} for kid, key in KEYS.items()]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 60, "scope": "frames:read ingest:read"}
    return {name: value for name, value in {**made, **changes}.items() if value is not ...}


def signed(payload: dict[str, Any], key: Any = RSA, alg: str = "RS256", **header: Any) -> str:
    names = {"RS256": "rsa", "ES256": "ec", "EdDSA": "ed"}
    full = {"alg": alg, "kid": names.get(alg), **header}
    return jwt.encode({name: value for name, value in full.items() if value is not None}, payload, key, algorithms=[alg])


def raw(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"x") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    return ".".join([part(json.dumps(header).encode()), part(json.dumps(payload).encode()), part(signature)])


def verifier(**settings: Any) -> TokenVerifier:
    auth = AuthSettings(MODE="jwt", JWT_ISSUER=ISSUER, JWT_AUDIENCE=AUDIENCE, **settings)
    source = KeySource(url="https://unused.example", read=public_set)
    return TokenVerifier(auth, None if auth.JWT_ALGORITHMS == ["HS256"] else source, clock=lambda: NOW)


async def refused(token: str, **settings: Any) -> None:
    with pytest.raises(Unauthorized):
        await verifier(**settings).verify(token)


@pytest.mark.parametrize(("alg", "key"), [("RS256", RSA), ("ES256", EC), ("EdDSA", ED)])
async def test_each_algorithm_of_the_set_holds(alg: str, key: Any) -> None:
    who = await verifier(JWT_CAMERAS_DEFAULT="all").verify(signed(claims(), key, alg))
    assert (who.subject, who.kind, who.owner) == ("alice", "jwt", "jwt:alice")
    assert who.scopes == {Scope.FRAMES_READ, Scope.INGEST_READ}
    assert who.cameras == ALL_CAMERAS


async def test_hs256_holds_alone_with_its_secret() -> None:
    hs = {"JWT_ALGORITHMS": ["HS256"], "JWT_SECRET": SecretStr(SECRET)}
    token = signed(claims(), OctKey.import_key(SECRET), "HS256")
    assert (await verifier(**hs).verify(token)).subject == "alice"
    await refused(signed(claims(), OctKey.import_key(SECRET + "x"), "HS256"), **hs)
    await refused(signed(claims()), **hs)


async def test_none_is_no_algorithm() -> None:
    for alg in ("none", "None", "NONE", "", None, ["RS256"]):
        await refused(raw({"alg": alg, "kid": "rsa"}, claims(), b""))
        await refused(raw({"alg": alg, "kid": "rsa"}, claims()))
    whole = signed(claims())
    await refused(whole.rpartition(".")[0] + ".")
    await refused(whole.rpartition(".")[0])


async def test_a_public_key_is_no_secret() -> None:
    """Key confusion: HS256 over the PEM, the DER or the JWK of the public key that everybody has."""
    for secret in (RSA.as_pem(private=False), RSA.as_der(private=False), json.dumps(RSA.as_dict(private=False)).encode()):
        head, body, _ = raw({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, claims()).split(".")
        tag = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
        await refused(f"{head}.{body}.{base64.urlsafe_b64encode(tag).decode().rstrip('=')}")


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": OTHER.as_dict(private=False)}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/c"},
        {"x5c": ["MIIB"]}, {"crit": ["exp"]}, {"b64": False}, {"zip": "DEF"},
    ],
)  # fmt: skip
async def test_a_token_brings_no_key_and_no_extension(header: dict[str, Any]) -> None:
    genuine = signed(claims()).split(".")
    forged = raw({"alg": "RS256", "kid": "rsa", "typ": "JWT", **header}, claims()).split(".")
    await refused(f"{forged[0]}.{genuine[1]}.{genuine[2]}")


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "' OR 1=1 --", "ec", "https://evil.example", "", 7, {"a": 1}, ["rsa"], "rsa\x00"]
)
async def test_a_kid_only_names_a_key_of_the_set(kid: Any) -> None:
    given = isinstance(kid, str)
    await refused(signed(claims(), OTHER, "RS256", kid=kid) if given else raw({"alg": "RS256", "kid": kid}, claims()))


async def test_another_key_does_not_sign() -> None:
    await refused(signed(claims(), OTHER))
    head, body, signature = signed(claims()).split(".")
    changed = raw({}, claims(sub="root")).split(".")[1]
    await refused(f"{head}.{changed}.{signature}")
    assert body != changed


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"iss": ...}, {"iss": [ISSUER]}, {"aud": "other"}, {"aud": ...}, {"aud": ["other"]},
        {"exp": NOW - 31}, {"exp": ...}, {"exp": "9999999999"}, {"exp": None}, {"exp": True}, {"nbf": NOW + 31},
        {"sub": ...}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"}, {"sub": "x" * 300}, {"nbf": "soon"},
        {"scope": 7}, {"scope": {"a": 1}}, {"scope": ["frames:read", 7]},
        {"cameras": "a"}, {"cameras": {"a": 1}}, {"cameras": ["a", 7]}, {"cameras": ["a b"]}, {"cameras": ["*a"]},
    ],
)  # fmt: skip
async def test_claims_that_do_not_hold(changes: dict[str, Any]) -> None:
    await refused(signed(claims(**changes)))


async def test_leeway_and_audiences() -> None:
    for good in ({"exp": NOW - 29}, {"nbf": NOW + 29}, {"aud": ["other", AUDIENCE]}, {"exp": 10**11}):
        await verifier().verify(signed(claims(**good)))


async def test_cameras_and_scopes() -> None:
    async def cameras(claim: Any, **settings: Any) -> CameraGrant:
        return (await verifier(**settings).verify(signed(claims(cameras=claim)))).cameras

    nothings: tuple[Any, ...] = (..., None, [])
    for nothing in nothings:
        assert await cameras(nothing) == NO_CAMERAS
        assert await cameras(nothing, JWT_CAMERAS_DEFAULT="all") == ALL_CAMERAS
    assert await cameras(["pit-*", "b"]) == CameraGrant(("b", "pit-*"))
    admin = await verifier().verify(signed(claims(scope=["admin", "unknown:scope"])))
    assert admin.admin
    assert admin.cameras == ALL_CAMERAS
    narrowed = await verifier().verify(signed(claims(scope="admin metrics:read frames:read", cameras=["a"])))
    assert narrowed.scopes == {Scope.FRAMES_READ}


async def test_what_is_no_token_at_all() -> None:
    for text in ("", "a.b", "a.b.c.d", "ü.b.c", "e30.e30.e30", "x" * 9000, signed(claims()) + "=", signed(claims()) + "\n"):
        await refused(text)
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 3000).decode().rstrip("=")
    await refused(f"{deep}.e30.e30")


# -- the key set -----------------------------------------------------------------------------------------------


async def test_one_refresh_in_30_seconds_whatever_the_kid() -> None:
    now, reads = [1000.0], [0]

    def read() -> bytes:
        reads[0] += 1
        return public_set()

    source = KeySource(url="https://unused.example", clock=lambda: now[0], read=read)
    for n in range(50):
        await source.keys(f"unknown-{n}")
    assert reads == [1]
    now[0] += 30
    await source.keys("unknown")
    await source.keys("unknown")
    assert reads == [2]


async def test_the_last_good_set_is_good_for_a_day() -> None:
    now, data = [1000.0], [public_set()]
    source = KeySource(url="https://unused.example", clock=lambda: now[0], read=lambda: data[0])
    await source.keys("rsa")
    data[0] = b"{"
    now[0] += 86_399
    assert isinstance(await source.keys("rsa"), KeySet)
    now[0] += 2
    with pytest.raises(jwks.KeysUnavailable):
        await source.keys("rsa")


def test_only_public_signature_keys_are_taken() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "a"}
    private = {**RSA.as_dict(private=True), "kid": "p"}
    encryption = {**RSA.as_dict(private=False), "kid": "e", "use": "enc"}
    good = {**RSA.as_dict(private=False), "kid": "rsa"}
    found = jwks.parse_keys(json.dumps({"keys": [secret, private, encryption, good]}).encode())
    assert [key.kid for key in found.keys] == ["rsa"]
    for bad in (b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', json.dumps({"keys": [secret]}).encode(), b" " * 65_537):
        with pytest.raises(ValueError):
            jwks.parse_keys(bad)
