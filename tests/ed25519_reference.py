"""edwards25519 in plain affine arithmetic (RFC 8032 section 5.1) for the tests: slow, obvious, and
with nothing of the firmware.
"""

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
IDENTITY = (0, 1)


def add(p, q):
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x % P, y % P


def negate(p):
    return -p[0] % P, p[1]


def multiply(n, p):
    total = IDENTITY
    while n:
        if n & 1:
            total = add(total, p)
        p = add(p, p)
        n >>= 1
    return total


def recover_x(y, sign):
    """x of the point, or None."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return x if x % 2 == sign else -x % P


def encode(p):
    return (p[1] | (p[0] & 1) << 255).to_bytes(32, "little")


B = (recover_x(4 * pow(5, -1, P) % P, 0), 4 * pow(5, -1, P) % P)


def torsion():
    """The 8 points of small order, by multiples of one of order 8."""
    y = 2
    while True:
        x = recover_x(y, 0)
        if x is not None:
            eight = multiply(L, (x, y))
            if multiply(4, eight) != IDENTITY:
                return [multiply(n, eight) for n in range(8)]
        y += 1


def comb(point, teeth=6, spacing=43):
    """The entries of the firmware's comb table: sums of +-2^(spacing j) * point, the last +."""
    powers = [point]
    for _ in range(teeth - 1):
        powers.append(multiply(2**spacing, powers[-1]))
    for m in range(2 ** (teeth - 1)):
        total = powers[-1]
        for j, power in enumerate(powers[:-1]):
            total = add(total, negate(power) if m >> j & 1 else power)
        yield total


def challenge(r, public_key, message):
    digest = hashlib.sha512(r + public_key + message).digest()
    return int.from_bytes(digest, "little") % L


def sign_with(scalar, nonce, public_key, message, r=None):
    """A signature from raw scalars; `r` overrides the encoding of nonce * B."""
    r = r or encode(multiply(nonce, B))
    s = (nonce + challenge(r, public_key, message) * scalar) % L
    return r + s.to_bytes(32, "little")
