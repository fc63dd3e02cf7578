"""Kernel doors that no program needs, closed by a seccomp filter that the zygote installs on itself and its forks.

It stands on top of the engine's own profile, which leaves some of these open (io_uring and VSOCK under Docker 20.10),
and is the only one where there is no engine. A closed door answers EPERM. On other machines than x86-64 and arm64
nothing is installed.
"""

import ctypes
import os
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38  # linux/prctl.h, linux/seccomp.h
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h: ABS word, K
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_SOCKET = {"x86_64": 41, "aarch64": 198}
_X32 = 0x40000000
"""Set in the numbers of x86's third ABI, which would walk around every other number here."""
_DOORS = {  # name: number on x86_64, on aarch64 (asm/unistd.h)
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "memfd_create": (319, 279),  # memory that no limit but the container's counts
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "chroot": (161, 51),
    "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def close_doors(libc, families):
    """Refuse the calls above, and sockets of other than these address families, from now on. Cannot be undone."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return
    column = list(_ARCHITECTURES).index(machine)
    refused = [numbers[column] for numbers in _DOORS.values()]
    code = _filter(_ARCHITECTURES[machine], refused, _SOCKET[machine], families)
    program = _Program(len(code) // 8, code)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the seccomp filter was refused")


def _filter(architecture, refused, socket_call, families):
    """Build the filter as classic BPF over `struct seccomp_data`: call number at 0, architecture at 4, arguments at 16.

    Each test jumps to one of the two ends, refuse and allow.
    """
    checks = [(_JUMP_EQUAL, number, "refuse") for number in refused]
    steps = [(_LOAD, 4, None), (_JUMP_EQUAL, architecture, "unless refuse"), (_LOAD, 0, None)]
    steps += [(_JUMP_ABOVE, _X32, "refuse"), *checks, (_JUMP_EQUAL, socket_call, "unless allow"), (_LOAD, 16, None)]
    steps += [(_JUMP_EQUAL, family, "allow") for family in families]
    refuse, allow = len(steps), len(steps) + 1
    code = b""
    for index, (operation, operand, target) in enumerate(steps):
        yes = no = 0
        if target is not None:
            distance = (allow if target.endswith("allow") else refuse) - index - 1
            yes, no = (0, distance) if target.startswith("unless") else (distance, 0)
        code += struct.pack("=HBBI", operation, yes, no, operand)
    return code + struct.pack("=HBBI", _RETURN, 0, 0, _REFUSE) + struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW)
