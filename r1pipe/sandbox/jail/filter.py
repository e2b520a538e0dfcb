"""The seccomp filter: system calls a program has no business making, refused by number."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct

from . import kernel

# name: (x86_64, aarch64), None where the machine has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # namespaces, mounts, roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # kernel interfaces with a long record of holes
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_destroy": (207, 1),
    "io_submit": (209, 2),
    "io_cancel": (210, 3),
    "io_getevents": (208, 4),
    "io_pgetevents": (333, 292),
    "vmsplice": (278, 75),
    "seccomp": (317, 277),
    "personality": (135, 92),
    # counted against the caller's user, over all of its sandboxes
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "lookup_dcookie": (212, 18),
    "remap_file_pages": (216, 234),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "lsm_get_self_attr": (459, 459),
    "lsm_set_self_attr": (460, 460),
    "lsm_list_modules": (461, 461),
    # keys
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    # sockets, except the connected pairs that asyncio and multiprocessing use
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # memory that outlives its process or that no rlimit counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
_CLONE, _IOCTL, _SOCKETPAIR = (56, 220), (16, 29), (53, 199)
_CLONE3 = 435
# Calls above this number are newer than this list: they do not exist in here.
_NEWEST_KNOWN = 462
_X32 = 0x40000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_AF_UNIX = 1

_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _fail(number: int) -> int:
    return 0x00050000 | number


def _load(offset: int) -> tuple[int, int, int, int]:
    return (0x20, 0, 0, offset)


def _return(value: int) -> tuple[int, int, int, int]:
    return (0x06, 0, 0, value)


def _if_equal(value: int, skip_if_not: int) -> tuple[int, int, int, int]:
    return (0x15, 0, skip_if_not, value)


def _if_below(value: int, skip_if_so: int) -> tuple[int, int, int, int]:
    # "greater or equal" goes on with the next instruction, "below" skips
    return (0x35, 0, skip_if_so, value)


@functools.cache
def program() -> bytes:
    """Return the filter as classic BPF for this machine (seccomp(2), `struct sock_filter`)."""
    machine = os.uname().machine
    column = 0 if machine == "x86_64" else 1
    spaces = kernel.ALL_BUT_USER | kernel.CLONE_NEWUSER
    code = [
        _load(4),
        (0x15, 1, 0, _AUDIT_ARCH[machine]),
        _return(_KILL),  # 32-bit calls carry other numbers
        _load(0),
        _if_below(_X32, 1),
        _return(_KILL),
        _if_below(_NEWEST_KNOWN + 1, 1),
        _return(_fail(errno.ENOSYS)),
        # ENOSYS makes the C library fall back to clone, whose flags can be read here
        _if_equal(_CLONE3, 1),
        _return(_fail(errno.ENOSYS)),
        # clone: no namespace flag among the low 32 bits
        _if_equal(_CLONE[column], 4),
        _load(16),
        (0x45, 0, 1, spaces),
        _return(_fail(errno.EPERM)),
        _return(_ALLOW),
        _if_equal(_SOCKETPAIR[column], 4),
        _load(16),
        _if_equal(_AF_UNIX, 1),
        _return(_ALLOW),
        _return(_fail(errno.EPERM)),
        # ioctl: nothing may be typed into a terminal
        _if_equal(_IOCTL[column], 6),
        _load(24),
        (0x15, 3, 0, _TIOCSTI),
        (0x15, 2, 0, _TIOCLINUX),
        (0x15, 1, 0, _TIOCSETD),
        _return(_ALLOW),
        _return(_fail(errno.EPERM)),
    ]
    numbers = sorted({n for pair in _DENIED.values() if (n := pair[column]) is not None})
    for at, number in enumerate(numbers):
        code.append((0x15, len(numbers) - at, 0, number))
    code += [_return(_ALLOW), _return(_fail(errno.EPERM))]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install() -> None:
    """Put the filter on this process and all it will start; needs no_new_privs."""
    code = program()
    held = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(held)), struct.calcsize("@HP")
    )
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.addressof(header))
