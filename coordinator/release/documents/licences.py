"""Licences as others name them: SPDX, the Hugging Face Hub, and which are open. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from barnraise.protocols.values import is_licence

SPDX = "https://spdx.org/licenses/"
DEEPEST = 50  # parentheses of an expression that is judged
_CC = re.compile(r"https?://creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)(/.*)?")
_ZERO = re.compile(r"https?://creativecommons\.org/publicdomain/zero/1\.0(/.*)?")

_OPEN = """
0BSD AFL-3.0 AGPL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-1.1 Apache-2.0 Artistic-2.0 BlueOak-1.0.0
BSD-1-Clause BSD-2-Clause BSD-2-Clause-Patent BSD-3-Clause BSD-3-Clause-LBNL BSL-1.0 CC-BY-3.0 CC-BY-4.0
CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0 CDLA-Sharing-1.0 CECILL-2.1
ECL-2.0 EPL-1.0 EPL-2.0 etalab-2.0 EUPL-1.1 EUPL-1.2 GFDL-1.3 GFDL-1.3-only GFDL-1.3-or-later GPL-2.0
GPL-2.0-only GPL-2.0-or-later GPL-3.0 GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.1 LGPL-2.1-only
LGPL-2.1-or-later LGPL-3.0 LGPL-3.0-only LGPL-3.0-or-later LPPL-1.3c MIT MIT-0 MPL-2.0 MS-PL MS-RL
MulanPSL-2.0 NCSA ODbL-1.0 ODC-By-1.0 OFL-1.1 OGL-UK-3.0 OSL-3.0 PDDL-1.0 PostgreSQL PSF-2.0 Python-2.0
UPL-1.0 Unlicense W3C WTFPL Zlib
"""
OPEN = frozenset(_OPEN.split())
"""SPDX identifiers of licences that the OSI, the FSF or the Open Definition calls open."""

_AS_SPDX = """
AFL-3.0 AGPL-3.0 Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0 CC-BY-2.0
CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0
CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CC-BY-ND-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0
CDLA-Permissive-1.0 CDLA-Permissive-2.0 CDLA-Sharing-1.0 ECL-2.0 EPL-1.0 EPL-2.0 etalab-2.0 EUPL-1.1
EUPL-1.2 GPL-2.0 GPL-3.0 ISC LGPL-2.1 LGPL-3.0 LPPL-1.3c MIT MPL-2.0 MS-PL NCSA OFL-1.1 OSL-3.0
PostgreSQL Unlicense WTFPL Zlib
"""
_HUB = {name: name.lower() for name in _AS_SPDX.split()} | {
    "GFDL-1.3": "gfdl",
    "ODC-By-1.0": "odc-by",
    "ODbL-1.0": "odbl",
    "PDDL-1.0": "pddl",
}
"""How the Hub spells the licences that it knows."""


def spdx(licence: str) -> str | None:
    """The SPDX expression that a text or an address means; None where it means another licence."""
    if licence.startswith((SPDX, SPDX.replace("https", "http"))):
        licence = licence.partition("/licenses/")[2].removesuffix(".html").removesuffix("/")
    elif found := _CC.fullmatch(licence):
        licence = f"CC-{found[1].upper()}-{found[2]}"
    elif _ZERO.fullmatch(licence):
        licence = "CC0-1.0"
    return licence if is_licence(licence) else None


def hub(licence: str | None) -> dict[str, str]:
    """The licence's keys in a model card's header."""
    if licence is None:
        return {"license": "unknown"}
    held = licence.removesuffix("-only").removesuffix("-or-later").removesuffix("+")
    if known := _HUB.get(licence) or _HUB.get(held):
        return {"license": known}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    link = f"{SPDX}{licence}.html" if re.fullmatch(r"[A-Za-z0-9.-]+", licence) else SPDX
    return {"license": "other", "license_name": name, "license_link": link}


def is_open(licence: str | None) -> bool:
    """Whether an SPDX expression leaves whoever receives it an open licence.

    Of `A OR B` one must be open, of `A AND B` both; an exception (`WITH`) only adds permissions.
    """
    if licence is None or not is_licence(licence) or licence.count("(") > DEEPEST:
        return False
    return _either(re.findall(r"[()]|[^\s()]+", licence))


def _either(tokens: list[str]) -> bool:
    return _joined(tokens, "OR", lambda: _joined(tokens, "AND", lambda: _one(tokens), all), any)


def _joined(
    tokens: list[str], word: str, inner: Callable[[], bool], rule: Callable[[list[bool]], bool]
) -> bool:
    """Operands of `word`, each read to its end, whatever the others were."""
    found = [inner()]
    while tokens and tokens[0] == word:
        tokens.pop(0)
        found.append(inner())
    return rule(found)


def _one(tokens: list[str]) -> bool:
    token = tokens.pop(0)
    if token == "(":
        found = _either(tokens)
        tokens.pop(0)
        return found
    if tokens and tokens[0] == "WITH":
        del tokens[:2]
    return token.removesuffix("+") in OPEN
