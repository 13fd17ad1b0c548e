"""Personal data: published test numbers are found, look-alikes are not, check digits agree with independent sums."""

from __future__ import annotations

import random

import phonenumbers
import pytest

from intaglio.trust import pii

CLEAN = [
    "In 1914-1918 some 1,234,567 men and 2.718281828 others; ISBN 978-3-16-148410-0.",
    "2020-01-02 12:30:45, 10.0.0.1, 127.0.0.1, version 8.8.4.4, v1.2.3.4, 192.168.1.1",
    "pi = 3.14159265358979323846264338327950288",
    "4111 1111 1111 1112 fails Luhn; 0000 0000 0000 0000 is nobody's card",
    "000-12-3456 and 666-12-3456 and 900-12-3456 and 123-00-4567 and 123-45-0000",
    "DE89 3704 0044 0532 0130 01 and GB82WEST12345698765433",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b at 2024.11.23",
    "twitter @ada, a @ b, ada@, @example.org, price 1 000 000 000 yuan",
    "order no 20231123000123 of 1234567890123 pieces, 500 000 000 km",
    "公元2023年，人口1400000000，面积9600000平方公里，第20231123号",
    "110101199902301234 has the 30th of February",
    "lines 100-200, pages 1234-1240, 3:2, 1/2, 50%, 12x34",
]
FOUND = [
    ("email", "Write to ada.lovelace+x@mail.example.co.uk.", "ada.lovelace+x@mail.example.co.uk"),
    ("email", "邮箱zs@example.com。", "zs@example.com"),
    ("email", "联系ｚｓ我的邮箱abc＠example.org谢谢", "abc＠example.org"),
    ("email", "<o'neill@example.org>", "o'neill@example.org"),
    ("credit_card", "card 4111 1111 1111 1111 ok", "4111 1111 1111 1111"),
    ("credit_card", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("credit_card", "卡号378282246310005。", "378282246310005"),
    ("credit_card", "6011111111111117", "6011111111111117"),
    ("credit_card", "2223003122003222", "2223003122003222"),
    ("credit_card", "6212345678901232 (UnionPay)", "6212345678901232"),
    ("resident_id", "身份证11010519491231002X。", "11010519491231002X"),
    ("resident_id", "id 440524188001010014", "440524188001010014"),
    ("resident_id_like", "身份证110105194912310021。", "110105194912310021"),
    ("iban", "IBAN DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("iban", "FR14 2004 1010 0505 0001 3M02 606", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban", "NO9386011117947 AND MORE", "NO9386011117947"),
    ("us_ssn", "SSN 536-90-4399", "536-90-4399"),
    ("ip_address", "from 8.8.8.8 at noon", "8.8.8.8"),
    ("ip_address", "2001:4860:4860::8888", "2001:4860:4860::8888"),
    ("phone", "Call +44 20 7946 0958 now", "+44 20 7946 0958"),
    ("phone", "手机13800138000，谢谢", "13800138000"),
    ("phone", "手机：１３８００１３８０００", "１３８００１３８０００"),
    ("phone", "138-0013-8000", "138-0013-8000"),
    ("phone", "电话：010-62345678", "010-62345678"),
    ("phone", "(212) 555-0123 or later", "(212) 555-0123"),
    ("phone", "212-736-5000", "212-736-5000"),
    ("phone", "Tel. 030 901820", "030 901820"),
    ("phone", "0086 138 0013 8000", "0086 138 0013 8000"),
    ("phone", "01 42 68 53 00", "01 42 68 53 00"),
]


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_found(kind: str, text: str, value: str) -> None:
    assert [(each.kind, text[each.start : each.end]) for each in pii.find(text)] == [(kind, value)]


@pytest.mark.parametrize("text", CLEAN)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert [(each.kind, text[each.start : each.end]) for each in pii.find(text)] == []


def test_several_in_one_text_in_order_without_overlap() -> None:
    text = "ada@example.org, 13800138000; 4111111111111111, 11010519491231002X"
    found = pii.find(text)
    assert [each.kind for each in found] == ["email", "phone", "credit_card", "resident_id"]
    assert all(one.end <= two.start for one, two in zip(found, found[1:], strict=False))


def test_redact() -> None:
    text = "a: ada@example.org, b: 13800138000."
    clean, marks = pii.redact(text, pii.find(text))
    assert clean == "a: [email], b: [phone]."
    assert [clean[each.start : each.end] for each in marks] == ["[email]", "[phone]"]
    assert pii.find(clean) == []


def test_luhn_against_the_plain_definition() -> None:
    """Every second digit from the right doubled, digits of the products added (ISO/IEC 7812-1)."""
    rng = random.Random(1)
    for _ in range(500):
        digits = "".join(rng.choices("0123456789", k=rng.randint(2, 19)))
        total = sum(sum(map(int, str(int(c) * 2))) if i % 2 else int(c) for i, c in enumerate(digits[::-1]))
        assert pii.luhn(digits) == (total % 10 == 0)


def test_resident_check_against_iso_7064() -> None:
    """MOD 11-2: the sum of digit times 2 ** position is 1 modulo 11, X standing for ten."""
    rng = random.Random(2)
    for _ in range(300):
        head = "".join(rng.choices("0123456789", k=17))
        good = [c for c in "0123456789X" if pii.resident_check(head + c)]
        assert len(good) == 1
        values = [10 if c == "X" else int(c) for c in head + good[0]]
        assert sum(value * 2**place for place, value in enumerate(reversed(values))) % 11 == 1


def test_iban_check_finds_every_single_error() -> None:
    good = "DE89370400440532013000"
    assert pii.iban_check(good)
    for place in range(2, len(good)):
        for digit in "0123456789":
            assert pii.iban_check(good[:place] + digit + good[place + 1 :]) == (digit == good[place])


def test_example_numbers_of_every_region_known_here() -> None:
    """libphonenumber's own example of each region, written internationally, is found."""
    for region in pii.REGIONS:
        number = phonenumbers.example_number(region)
        text = f"call {phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)} please"
        assert [each.kind for each in pii.find(text)] == ["phone"], text


@pytest.mark.parametrize(
    "text",
    ["1" * 200_000, "1 " * 100_000, "a@" * 100_000, "a." * 100_000 + "@", "(" * 100_000 + "1", "1:" * 100_000,
     "DE89 " * 40_000,
     "+1-" * 60_000, "a@b." * 50_000, "x" * 100_000 + "@" + "y" * 100_000],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    """Linear time: a quadratic expression would need minutes here (the test's own limit is the runner's patience)."""
    pii.find(text)
