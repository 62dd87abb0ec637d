"""What the embedded corpus is made of by default."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: Items of each category.
CATEGORIES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "sarcasm": 1200,
        "suicide_ideation": 600,
        "self_harm": 400,
        "abuse": 800,
        "profanity": 1200,
        "sociopathic": 400,
        "financial_coercion": 600,
    }
)
HINGLISH_ITEMS: Final = 1500
MEDIUM_RISK_ITEMS: Final = 1300
OWNERS: Final = 800

#: Every item of these categories has risk_level HIGH, and no other item has.
HIGH_RISK: Final = frozenset({"suicide_ideation", "self_harm", "abuse", "financial_coercion"})
