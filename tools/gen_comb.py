"""Writes firmware/chargekeep/credential/comb_base.py, the comb points of the Ed25519 base point.

Uses plain affine arithmetic (RFC 8032 section 5.1) and nothing of the firmware, so that it also
checks it. `gen_comb.py --check` compares and exits 1 on a difference.
"""

import sys
from pathlib import Path

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
TEETH, SPACING = 7, 37
OUTPUT = Path(__file__).resolve().parent.parent / "firmware/chargekeep/credential/comb_base.py"
HEADER = """\
# Written by tools/gen_comb.py, do not edit: 64 points x, y (each 32 bytes, little-endian).
# Point m is the sum over j = 0 to 6 of +-2^(37j) B, minus where bit j of m is set.

POINTS = (
"""


def add(p, q):
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x % P, y % P


def base_point():
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x if x % 2 == 0 else P - x), y


def points():
    teeth = [base_point()]
    for _ in range(TEETH - 1):
        point = teeth[-1]
        for _ in range(SPACING):
            point = add(point, point)
        teeth.append(point)
    for m in range(2 ** (TEETH - 1)):
        total = teeth[-1]
        for j, (x, y) in enumerate(teeth[:-1]):
            total = add(total, ((P - x) % P if m >> j & 1 else x, y))
        yield total


def text():
    lines = [HEADER]
    data = b"".join(v.to_bytes(32, "little") for point in points() for v in point)
    for i in range(0, len(data), 16):
        lines.append('    b"%s"\n' % "".join("\\x%02x" % byte for byte in data[i : i + 16]))
    lines.append(")\n")
    return "".join(lines)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(OUTPUT.read_text() != text())
    OUTPUT.write_text(text())
