"""Logins: the RFCs' own examples, several challenges in every order, stale nonces, and no more than two refused."""

from __future__ import annotations

import hashlib
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.challenge import Challenge as CameraSide
from services.rtsp_capture.connection.rtsp.login import MAX_REFUSED, Login, parse_challenges
from tests.kits.fuzz import fuzzed


def fields(value: str | None) -> dict[str, str]:
    assert value is not None
    return {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', value)}


def answer(challenges: list[str], method: str, uri: str, user: str, password: str, cnonce: str = "c") -> str | None:
    login = Login(user, password, lambda: cnonce)
    return login.authorization(method, uri) if login.challenged(challenges) else None


def test_digest_of_rfc_2617_section_3_5() -> None:
    challenge = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    found = fields(answer([challenge], "GET", "/dir/index.html", "Mufasa", "Circle Of Life", "0a4f113b"))
    assert found["response"] == "6629fae49393a05397450978507c4ef1"
    assert found["opaque"] == "5ccc069c403ebaf9f0171e9517f40e41"
    assert (found["qop"], found["nc"], found["cnonce"]) == ("auth", "00000001", "0a4f113b")


MD5 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
SHA = MD5.replace("=MD5", "=SHA-256")
BASIC = 'Basic realm="x, Digest y"'
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
RESPONSES = {
    MD5: "8ca523f5e9506fed4657c9700eebdbec",
    SHA: "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
}


@pytest.mark.parametrize("offered", [MD5, SHA])
def test_digest_of_rfc_7616_section_3_9_1(offered: str) -> None:
    found = fields(answer([offered], "GET", "/dir/index.html", "Mufasa", "Circle of Life", CNONCE))
    assert found["response"] == RESPONSES[offered]
    assert found["algorithm"] == ("MD5" if offered == MD5 else "SHA-256")


@pytest.mark.parametrize("order", list(itertools.permutations([MD5, SHA, BASIC])))
@pytest.mark.parametrize("lines", ["one", "several"])
def test_of_several_challenges_the_strongest_in_any_order_and_form(order: tuple[str, ...], lines: str) -> None:
    values = [", ".join(order)] if lines == "one" else list(order)
    assert [one.kind for one in parse_challenges(values)] == [
        {MD5: "MD5", SHA: "SHA-256", BASIC: "BASIC"}[one] for one in order
    ]
    found = fields(answer(values, "GET", "/dir/index.html", "Mufasa", "Circle of Life", CNONCE))
    assert found["response"] == RESPONSES[SHA]


@pytest.mark.parametrize(("algorithm", "name"), [("MD5-sess", "md5"), ("SHA-256-sess", "sha256")])
def test_the_session_variants(algorithm: str, name: str) -> None:
    """RFC 7616, section 3.4.2."""

    def h(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    for qop in ("", ', qop="auth"'):
        value = answer([f'Digest realm="r", nonce="n", algorithm={algorithm}{qop}'], "DESCRIBE", "rtsp://h/x", "u", "p")
        found = fields(value)
        secret, action = h(f"{h('u:r:p')}:n:c"), h("DESCRIBE:rtsp://h/x")
        expected = h(f"{secret}:n:00000001:c:auth:{action}") if qop else h(f"{secret}:n:{action}")
        assert (found["response"], found["cnonce"], found["algorithm"]) == (expected, "c", algorithm)


def test_digest_without_qop() -> None:
    found = fields(answer(['Digest realm="cam", nonce="n"'], "DESCRIBE", "rtsp://h/x", "u", "p"))
    ha1, ha2 = (hashlib.md5(text.encode()).hexdigest() for text in ("u:cam:p", "DESCRIBE:rtsp://h/x"))
    assert found["response"] == hashlib.md5(f"{ha1}:n:{ha2}".encode()).hexdigest()
    assert "qop" not in found


def test_basic_of_rfc_7617_and_what_is_not_known() -> None:
    assert answer(['Basic realm="W"'], "DESCRIBE", "u", "Aladdin", "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    unknown = MD5.replace("=MD5", "=SHA-512-256")
    assert answer([unknown, 'Basic realm="W"'], "DESCRIBE", "u", "a", "b") == "Basic YTpi"
    for none in ([], [unknown], ["Bearer"], ['Digest realm="no nonce"'], [MD5.replace("auth, auth-int", "auth-int")]):
        assert answer(none, "DESCRIBE", "u", "a", "b") is None


def test_a_quote_in_the_name_stays_inside_its_quotes() -> None:
    value = answer(['Digest realm="x", nonce="n"'], "DESCRIBE", "u", 'a"b\\', "p")
    assert value is not None
    assert value.startswith('Digest username="a\\"b\\\\", realm="x"')
    assert "s3cret" not in repr(Login("u", "s3cret"))


class Server:
    """Takes only these logins, and counts those that it refuses."""

    def __init__(self, *offers: CameraSide, takes: CameraSide | None) -> None:
        self.offers, self.takes, self.refused = offers, takes, 0

    def ask(self, login: Login) -> bool:
        """Whether the client got in; it asks as long as it believes it can."""
        for _ in range(20):
            value = login.authorization("DESCRIBE", "rtsp://h/x")
            verdict = self.takes.judge("DESCRIBE", "rtsp://h/x", value) if self.takes is not None else "wrong"
            if verdict == "right":
                login.went_through()
                return True
            self.refused += value is not None and verdict == "wrong"
            headers = [header for offer in self.offers for header in offer.headers(verdict == "stale")]
            if not login.challenged([value for _, value in headers]):
                return False
        raise AssertionError("it asks for ever")


def camera(scheme: str = "digest", password: str = "p", **fields: object) -> CameraSide:
    return CameraSide("u", password, scheme, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["basic", "digest"])
def test_both_are_offered_and_only_one_is_taken(first: str) -> None:
    basic, digest = camera("basic"), camera("digest")
    offers = (basic, digest) if first == "basic" else (digest, basic)
    for takes in (basic, digest):
        server = Server(*offers, takes=takes)
        assert server.ask(Login("u", "p"))
        assert server.refused == (takes is basic)


def test_a_sha_256_that_the_camera_cannot_really_do() -> None:
    sha, md5 = camera(algorithm="SHA-256"), camera()
    server = Server(sha, md5, takes=md5)
    assert server.ask(Login("u", "p"))


@pytest.mark.parametrize("scheme", ["basic", "digest", "both"])
def test_a_wrong_password_is_tried_at_most_twice(scheme: str) -> None:
    offers = [camera("digest", "other"), camera("basic", "other")] if scheme == "both" else [camera(scheme, "other")]
    for takes in offers:
        server = Server(*offers, takes=takes)
        assert not server.ask(Login("u", "p"))
        assert 1 <= server.refused <= MAX_REFUSED == 2


def test_a_nonce_of_each_answer_and_a_wrong_password() -> None:
    """Many cameras make a new nonce for each 401: that alone does not mean that the old one was stale."""
    login, asked = Login("u", "p"), 0
    while login.challenged([f'Digest realm="r", nonce="{asked}"']) and asked < 20:
        asked += 1
    assert asked == 2


def test_stale_nonces_are_answered_anew_and_not_for_ever() -> None:
    login = Login("u", "p", lambda: "c")
    assert login.challenged(['Digest realm="r", nonce="1"'])
    for nonce in "234":
        assert login.challenged([f'Digest realm="r", nonce="{nonce}", stale=TRUE'])
        assert f'nonce="{nonce}"' in (login.authorization("DESCRIBE", "u") or "")
    assert login.challenged(['Digest realm="r", nonce="5", stale=true'])  # counted as refused from here on
    assert not login.challenged(['Digest realm="r", nonce="6", stale=true'])


def test_in_mid_session_a_new_nonce_is_answered_without_the_word_stale() -> None:
    login = Login("u", "p")
    assert login.challenged(['Digest realm="r", nonce="0", qop="auth"'])
    for hour in range(1, 50):
        counts = [int(fields(login.authorization("OPTIONS", "u"))["nc"], 16) for _ in range(2)]
        assert counts[1] == counts[0] + 1
        login.went_through()
        assert login.challenged([f'Digest realm="r", nonce="{hour}", qop="auth"'])
        assert fields(login.authorization("OPTIONS", "u"))["nc"] == "00000001"


# As they are read from a socket. (Of any text hypothesis builds a table of Unicode first: seconds in a clean clone.)
LINES = st.binary(max_size=100).map(lambda line: line.decode("utf-8", "replace"))


@fuzzed
@given(st.lists(st.one_of(LINES, st.sampled_from([MD5, SHA, BASIC, MD5[:60], 'Digest a="'])), max_size=6))
def test_any_challenges_give_an_answer_or_none(values: list[str]) -> None:
    login = Login("u", "p")
    for _ in range(10):
        if not login.challenged(values):
            return
        login.authorization("DESCRIBE", "rtsp://h/x")
    raise AssertionError("it asks for ever")
