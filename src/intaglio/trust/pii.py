"""Personal data in texts: e-mail, phone, card, resident ID, IBAN, US social security and IP numbers, by their rules.

Numbers are believed only where their own check says so: Luhn (ISO/IEC 7812-1), MOD 11-2 (GB 11643-1999 after ISO
7064), MOD 97-10 (ISO 13616), the numbering plans of libphonenumber (package phonenumbers, Apache-2.0), the SSA's
ranges. A resident ID with a wrong check digit is still reported, as ``resident_id_like``: a mistyped one names a
person just as well. Presidio was measured at 27 kB/s and swallows Chinese words beside an e-mail address; this reads
some 10 MB/s of clean text. Limits: names, postal addresses and dates of birth are not found. A find is a hint for a
person, no proof of absence.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import phonenumbers

KINDS = ("email", "iban", "resident_id", "credit_card", "us_ssn", "resident_id_like", "phone", "ip_address")
REGIONS = ("CN", "US", "GB", "DE", "FR", "TW", "HK")


@dataclass(frozen=True, slots=True)
class Found:
    """kind: one of ``KINDS``. start, end: character offsets in the text that was searched."""

    kind: str
    start: int
    end: int


_ANY = re.compile("[0-9@０-９＠]")
_HINT = re.compile(r"@|\d(?:[ \t.()/-]{0,2}\d){6}|\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]:[0-9A-Fa-f:]{2,}:[0-9A-Fa-f]")
_WIDE = {0xFF10 + digit: 0x30 + digit for digit in range(10)} | {0xFF20: 0x40, 0xFF0D: 0x2D, 0xFF0E: 0x2E, 0xFF0B: 0x2B}


def find(text: str, *, regions: tuple[str, ...] = REGIONS) -> list[Found]:
    """Everything found, in the order of the text, without overlaps; offsets count characters.

    regions: whose national phone numbers are known; international ones (``+``) always are.
    """
    if _ANY.search(text) is None:
        return []
    plain = text if text.isascii() else text.translate(_WIDE)  # one character for one: offsets stay
    if _HINT.search(plain) is None:
        return []
    found: list[Found] = []
    for kind, finder in _FINDERS:
        for start, end in finder(plain):
            if all(end <= each.start or start >= each.end for each in found):
                found.append(Found(kind, start, end))
    for start, end in _phones(plain, regions):
        if all(end <= each.start or start >= each.end for each in found):
            found.append(Found("phone", start, end))
    return sorted(found, key=lambda each: each.start)


def redact(text: str, found: Iterable[Found]) -> tuple[str, list[Found]]:
    """The text with each find replaced by ``[kind]``, and where those marks stand in it."""
    parts: list[str] = []
    marks: list[Found] = []
    position = length = 0
    for each in sorted(found, key=lambda one: one.start):
        mark = f"[{each.kind}]"
        parts += [text[position : each.start], mark]
        length += each.start - position
        marks.append(Found(each.kind, length, length + len(mark)))
        length += len(mark)
        position = each.end
    return "".join((*parts, text[position:])), marks


# -------------------------------------------------------------------------------------------------------------- e-mail
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])"
)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _EMAIL.finditer(text)) if "@" in text else iter(())


# ---------------------------------------------------------------------------------------------------------------- cards
_CARD = re.compile(r"(?<![0-9A-Za-z.])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z]|[.,]\d)")
_CARD_PLANS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12,15}"  # American Express, Diners, JCB
    r"|6(?:011|5\d{2}|4[4-9]\d)\d{12,15}|62\d{14,17}"  # Discover, UnionPay
)


def luhn(digits: str) -> bool:
    """True where the last digit checks the others, ISO/IEC 7812-1 annex B."""
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = int(char)
        if index % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _CARD_PLANS.fullmatch(digits) and luhn(digits) and len(set(digits)) > 1:
            yield match.span()


# --------------------------------------------------------------------------------------------------------- resident IDs
_RESIDENT = re.compile(r"(?<![0-9A-Za-z])([1-8]\d)\d{4}((?:18|19|20)\d{2})(\d{2})(\d{2})\d{3}[\dXx](?![0-9A-Za-z])")
_PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def resident_check(number: str) -> bool:
    """True where the 18th character checks the first 17 (ISO 7064 MOD 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number[:17], strict=True))
    return "10X98765432"[total % 11] == number[17].upper()


def _residents(text: str, good: bool) -> Iterator[tuple[int, int]]:
    for match in _RESIDENT.finditer(text):
        if match[1] not in _PROVINCES or resident_check(match[0]) != good:
            continue
        try:
            datetime.date(int(match[2]), int(match[3]), int(match[4]))
        except ValueError:
            continue
        yield match.span()


# ----------------------------------------------------------------------------------------------------------------- IBAN
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})\d{2}(?= ?[A-Z0-9])")
_IBAN_LENGTHS = {
    pair[:2]: int(pair[2:])
    for pair in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 "
        "LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 "
        "QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
    ).split()
}


def iban_check(number: str) -> bool:
    """True for an IBAN without spaces whose check digits are right (ISO 13616, MOD 97-10)."""
    moved = number[4:] + number[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[1], 0)
        end, taken = match.start(), ""
        while len(taken) < length and end < len(text):
            char = text[end]
            if char.isascii() and (char.isdigit() or char.isupper()):
                taken += char
            elif char != " ":
                break
            end += 1
        ends = end == len(text) or not (text[end].isascii() and text[end].isalnum())
        if length and len(taken) == length and ends and iban_check(taken):
            yield match.start(), end


# ------------------------------------------------------------------------------------------------- social security, IP
_SSN = re.compile(r"(?<![0-9A-Za-z-])(\d{3})([ -])(\d{2})\2(\d{4})(?![0-9A-Za-z]|-\d)")


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    for match in _SSN.finditer(text):
        area, group, serial = match[1], match[3], match[4]
        if area not in ("000", "666") and area < "900" and group != "00" and serial != "0000":
            yield match.span()


_IP = re.compile(
    r"(?<![0-9A-Za-z.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![0-9A-Za-z:]|\.\d)"
)
_VERSION = re.compile(r"(?:version|release|v\.?|版本|版)\s*$", re.IGNORECASE)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    """Public addresses only: private, loopback and documentation ranges name nobody."""
    for match in _IP.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if address.is_global and not _VERSION.search(text[max(0, match.start() - 12) : match.start()]):
            yield match.span()


# ---------------------------------------------------------------------------------------------------------------- phone
_PHONE = re.compile(r"(?<![0-9A-Za-z@._+/-])(?:\+|00)?\(?\d(?:[ \t.()/-]{0,2}\d){5,16}(?![0-9A-Za-z@]|[.,]\d|-\d)")
_CUE = re.compile(
    r"(?:\b(?:tel|telephone|phone|mobile|cell|fax|call|whatsapp|telefon|handy|téléphone)\b|电话|電話|手机|手機|热线|熱線|传真|傳真|联系|致电|微信)"
    r"[^0-9\n]{0,12}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4}|\d{4}\s*[-/]\s*\d{4}|\d+\.\d+")
_CN_MOBILE = re.compile(r"1[3-9]\d([ -]?)\d{4}\1\d{4}")
_GROUPED = re.compile(
    r"\(\d{2,5}\) ?\d{3,4}[ .-]?\d{3,5}|\d{3}([.-])\d{3}\1\d{4}|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}|0\d(?:[ .-]\d{2}){4}"
)


def _phones(text: str, regions: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for match in _PHONE.finditer(text):
        number = match[0]
        if not _DATE.fullmatch(number) and _is_phone(number, text[max(0, match.start() - 28) : match.start()], regions):
            yield match.span()


def _is_phone(number: str, before: str, regions: tuple[str, ...]) -> bool:
    """International by its plan; national where it is written as a phone number or a word beside it says so."""
    if number.startswith(("+", "00")):
        return _valid("+" + number.lstrip("+").removeprefix("00"), None)
    if _CN_MOBILE.fullmatch(number) and "CN" in regions:
        return _valid(number, "CN")
    if _GROUPED.fullmatch(number) or _CUE.search(before):
        return any(_valid(number, region) for region in regions)
    return False


def _valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False


Finder = Callable[[str], Iterator[tuple[int, int]]]

_FINDERS: tuple[tuple[str, Finder], ...] = (
    ("email", _emails),
    ("iban", _ibans),
    ("resident_id", lambda text: _residents(text, True)),
    ("credit_card", _cards),
    ("us_ssn", _ssns),
    ("resident_id_like", lambda text: _residents(text, False)),
    ("ip_address", _addresses),
)
