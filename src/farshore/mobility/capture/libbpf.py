"""Call libbpf through ctypes: only the functions for loading and driving the capture program.

The library is searched in FARSHORE_LIBBPF, beside this package (``lib/``, where the push installation puts its own
copy, so the protected machine needs none), then on the system. Failures of the library become Unsupported or Refused
here; the rest of the agent does not know ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any, List, Optional

from farshore.model.errors import FarshoreError, Refused, Unsupported

BUNDLED = Path(__file__).parent / "lib"
SYSTEM_NAMES = ("libbpf.so.1", "libbpf.so.0")
NEEDED = ("libz.so.1", "libzstd.so.1", "libelf.so.1")  # in this order: the last one needs the others
HELPER_LOOP = 181
PROGRAM_TRACING = 26
_STRICT_ALL = 0xFFFFFFFF
_KEPT_LINES = 40

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SIGNATURES = {
    "bpf_object__open_file": (ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_void_p)),
    "bpf_object__load": (ctypes.c_int, (ctypes.c_void_p,)),
    "bpf_object__close": (None, (ctypes.c_void_p,)),
    "bpf_object__find_program_by_name": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "bpf_object__find_map_by_name": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    "bpf_map__set_max_entries": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_uint32)),
    "bpf_map__fd": (ctypes.c_int, (ctypes.c_void_p,)),
    "bpf_program__fd": (ctypes.c_int, (ctypes.c_void_p,)),
    "bpf_program__attach": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "bpf_link__pin": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)),
    "bpf_map__pin": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)),
    "bpf_obj_get": (ctypes.c_int, (ctypes.c_char_p,)),
    "bpf_link__destroy": (ctypes.c_int, (ctypes.c_void_p,)),
    "bpf_map_lookup_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
    "bpf_map_update_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)),
    "bpf_map_delete_elem": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p)),
    "bpf_map_lookup_batch": (
        ctypes.c_int,
        (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_uint32),
            ctypes.c_void_p,
        ),
    ),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32))),
    "libbpf_num_possible_cpus": (ctypes.c_int, ()),
    "libbpf_set_print": (ctypes.c_void_p, (_PRINT,)),
}

# libbpf has one printer for the process and keeps a bare pointer to it, even after the Library that set it is gone.
_printers: List[Any] = []
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.vsnprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)


class ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info of <linux/bpf.h>, up to what we read."""

    _fields_ = (
        ("before", ctypes.c_uint8 * 192),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
    )


class Library:
    """The loaded library. It keeps the last lines that libbpf printed, for error messages."""

    def __init__(self, path: Optional[str] = None) -> None:
        self.path, self._c = _load(path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = result, arguments
        strict = getattr(self._c, "libbpf_set_strict_mode", None)
        if strict is not None:  # version 0: make it return errors as version 1 does
            strict(ctypes.c_uint(_STRICT_ALL))
        self.lines: List[str] = []
        self._print = _PRINT(self._keep_line)
        _printers.append(self._print)
        self._c.libbpf_set_print(self._print)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._c, name)

    def supports_loop(self) -> Optional[bool]:
        """Return whether the kernel has bpf_loop (5.17, or a distribution's backport), or None if this libbpf cannot
        tell."""
        probe = getattr(self._c, "libbpf_probe_bpf_helper", None)
        if probe is None:
            return None
        found: int = probe(ctypes.c_int(PROGRAM_TRACING), ctypes.c_int(HELPER_LOOP), None)
        return None if found < 0 else found > 0

    def error(self, doing: str) -> FarshoreError:
        """Return the error to raise after a call failed, from errno and libbpf's output."""
        code = ctypes.get_errno()
        printed = " | ".join(line for line in self.lines[-_KEPT_LINES:] if line)
        message = f"{doing} failed: {os.strerror(code)}." + (f" libbpf says: {printed[-1500:]}" if printed else "")
        if code in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            return Refused(message, remedy="Run the mobility service as root.")
        if code == errno.EPERM:
            return Refused(
                message,
                remedy="Allow BPF: check kernel lockdown (confidentiality mode forbids it) and container limits.",
            )
        if code == errno.ENOMEM:
            return Refused(message, remedy="Free memory, or configure a smaller ring.")
        return Unsupported(message, remedy="Use scan mode on this kernel, or upgrade it to 5.17 or newer with BTF.")

    def _keep_line(self, level: int, text: bytes, arguments: int) -> int:
        if level > 0:  # 0 warn, 1 info, 2 debug
            return 0
        buffer = ctypes.create_string_buffer(4096)
        _LIBC.vsnprintf(buffer, len(buffer), text, arguments)
        self.lines.append(buffer.value.decode("utf-8", "replace").strip())
        del self.lines[:-_KEPT_LINES]
        return 0


def _load(path: Optional[str]) -> Any:
    chosen = path or os.environ.get("FARSHORE_LIBBPF")
    candidates = [chosen] if chosen else [str(BUNDLED / name) for name in SYSTEM_NAMES] + list(SYSTEM_NAMES)
    refused = []
    for candidate in candidates:
        if "/" in candidate and not Path(candidate).exists():
            continue
        try:
            if Path(candidate).parent == BUNDLED:
                _preload(BUNDLED)
            return candidate, ctypes.CDLL(candidate, use_errno=True)
        except OSError as error:  # a bundled one may have been built for a newer C library: the system's own works then
            refused.append(str(error))
    raise Unsupported(
        f"No libbpf could be loaded (looked for {', '.join(candidates)}){''.join(f'; {why}' for why in refused)}.",
        remedy="Install libbpf (Debian: libbpf1 or libbpf0), or push the mobility service again: its bundle "
        "includes it.",
    )


def _preload(folder: Path) -> None:
    """Load the libraries that a bundled libbpf needs, so that the loader does not search the system for them."""
    for name in NEEDED:
        if (folder / name).exists():
            ctypes.CDLL(str(folder / name))
