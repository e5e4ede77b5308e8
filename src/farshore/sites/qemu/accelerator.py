"""Find out by booting whether KVM runs guests here. The existence of /dev/kvm is not enough (nested hosts, filtered
CPUs).

Two guests are tried, each with a time limit. The first is UEFI firmware, which comes with QEMU's packages and uses
protected and long mode, paging, interrupts and devices before it reports. The second, if the caller has one, is a
kernel, which must reach the point where it looks for its root. The result is valid until the host reboots.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from farshore.sites.qemu.confinement import Lending, account_name, confined

QEMU = "qemu-system-x86_64"
FIRMWARE = (
    Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
    Path("/usr/share/OVMF/OVMF_CODE.fd"),
    Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"),
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KVM = Path("/dev/kvm")
_SECONDS = 20.0
_FIRMWARE_SIGN = b"BdsDxe:"
_KERNEL_SIGN = b"Kernel panic - not syncing"
_OUTPUT_LIMIT = 1 << 20


def choose_accelerator(folder: Path, kernel: Path | None = None) -> str:
    """Return ``kvm`` or ``tcg``; the first call after a boot of the host runs guests for up to 40 s.

    The result is kept in ``folder``. A result without a kernel is not used for a call with one, and a result of another
    user is ignored: /dev/kvm may be closed to this user."""
    record = folder / "accelerator.json"
    boot = _BOOT_ID.read_text().strip()
    proof = "kernel" if kernel is not None else "firmware"
    user = account_name()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text())
        mine = (known["boot"], known["user"]) == (boot, user)
        if mine and (known["accelerator"] == "tcg" or known["proof"] in (proof, "kernel")):
            return "kvm" if known["accelerator"] == "kvm" else "tcg"
    accelerator = "kvm" if kvm_boots(kernel) else "tcg"
    folder.mkdir(parents=True, exist_ok=True)
    new = record.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"boot": boot, "user": user, "accelerator": accelerator, "proof": proof}))
    new.rename(record)
    return accelerator


def kvm_boots(kernel: Path | None = None) -> bool:
    """Return whether KVM runs a guest from power-on to the end of its firmware, and ``kernel`` to its search for a
    root."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return False
    firmware = next((path for path in FIRMWARE if path.exists()), None)
    if firmware is None and kernel is None:
        return False
    if firmware is not None:
        code = f"if=pflash,format=raw,unit=0,readonly=on,file={firmware}"
        if not _says(("-drive", code), _FIRMWARE_SIGN):
            return False
    if kernel is None:
        return True
    with Lending() as lending:
        guest = ("-kernel", lending.content(kernel), "-append", "console=ttyS0 panic=-1")
        return _says(guest, _KERNEL_SIGN, lending.descriptors)


def _says(guest: Sequence[str], sign: bytes, descriptors: Sequence[int] = ()) -> bool:
    """Run a guest under KVM until its serial console prints ``sign``."""
    command = [QEMU, "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "512", "-smp", "2"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", *guest]
    try:
        process = subprocess.Popen(
            confined(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            pass_fds=descriptors,
        )
    except OSError:
        return False
    assert process.stdout is not None
    heard = b""
    end = time.monotonic() + _SECONDS
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(heard) < _OUTPUT_LIMIT and selector.select(max(0.0, end - time.monotonic())):
                piece = os.read(process.stdout.fileno(), 65536)
                heard += piece
                if sign in heard:
                    return True
                if not piece:
                    return False
        return False
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
