"""Values of options that the programs of this folder share."""

import argparse

KIB, MIB = 1 << 10, 1 << 20
UNITS = {"": 1, "B": 1, "K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": 1 << 30, "GIB": 1 << 30}


def size_of(text):
    digits = text.strip().upper()
    number = digits.rstrip("KMGIB")
    try:
        return int(number) * UNITS[digits[len(number) :]]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"`{text}` is no size such as 8, 32K or 16M") from None


def listed(one):
    return lambda text: [one(part) for part in text.split(",")]
