"""Runs the PTX of a compiled kernel on the CPU, a CTA at a time, all of its threads in lockstep.

Enough of PTX for straight code with branches that a whole CTA takes, shared memory, shuffles,
matrix moves and copies of swizzled tiles, which are there at once. It sees what a twin in torch
cannot: layouts, addresses, masks, the order of bytes, writes outside of tensors, warps that touch
the same shared memory without a barrier between, and reads of a tile that nobody waited for.
Approximate instructions (ex2, rcp) are rounded as numpy does, not as the hardware.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from r1pipe_kernels.launching import Matrix

TYPES = {
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "b64": np.uint64,
    "u64": np.uint64, "s64": np.int64, "b16": np.uint16, "u16": np.uint16, "pred": np.bool_,
}  # fmt: skip
ONE = {
    "mov": lambda x: x,
    "neg": np.negative,
    "not": np.invert,
    "abs": np.abs,
    "rcp": lambda x: np.float32(1) / x,
    "ex2": np.exp2,
}
TWO = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "max": np.maximum, "min": np.minimum,
}  # fmt: skip
COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip
NOBODY, SEVERAL, COPY = -1, -2, -3
SHARED = 232448
GUARD = 256
"""Bytes between tensors that nothing may write."""


class Program:
    """Instructions (negated, predicate, operation, operands), labels and parameters of a kernel."""

    def __init__(self, ptx: str) -> None:
        head, body = ptx.split(".reqntid", 1)
        self.threads = int(body.split()[0])
        self.parameters = re.findall(r"\.param .*?(\w+_param_\d+)", head)
        self.code: list[tuple[bool, str, str, list[str]]] = []
        self.labels: dict[str, int] = {}
        body = re.sub(r"//.*", "", body[body.index("{") + 1 :]).split(".section")[0]
        body = re.sub(r"^\s*\.(loc|file|pragma).*$", "", body, flags=re.M)
        body = re.sub(r"^\s*([$\w]+):\s*$", r"\1: ;", body, flags=re.M)
        # Braces of vectors stay, those of scopes go.
        body = re.sub(r"\{(?=\s*(\.reg|\n))", ";", body)
        for text in re.split(r"[;\n]\s*\}\s|;", body.replace("\t", " ")):
            self._add(" ".join(text.split()).removeprefix("}").strip())

    def _add(self, text: str) -> None:
        if not text or text.startswith(".reg"):
            return
        if text.endswith(":"):
            self.labels[text[:-1]] = len(self.code)
            return
        found = re.fullmatch(r"(?:@(!?)([%\w]+) )?([\w.:]+) ?(.*)", text)
        assert found, text
        operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", found[4])
        operands = [operand.replace(" ", "") for operand in operands]
        self.code.append((found[1] == "!", found[2] or "", found[3], operands))


class Cta:
    """One CTA: its registers, one value a thread each, and its shared memory."""

    def __init__(
        self, program: Program, memory: np.ndarray, arguments: dict[str, int],
        matrices: dict[int, tuple[int, Matrix]], index: Sequence[int], grid: Sequence[int],
    ) -> None:  # fmt: skip
        self.program, self.memory, self.arguments = program, memory, arguments
        self.matrices, self.threads = matrices, program.threads
        self.registers: dict[str, np.ndarray] = {}
        self.special = {"%tid.x": np.arange(self.threads), "global_smem": 0}
        self.special |= {name: at for name, at in arguments.items() if at in matrices}
        for axis, at, size in zip("xyz", index, grid, strict=True):
            self.special |= {f"%ctaid.{axis}": at, f"%nctaid.{axis}": size}
        self.shared = np.full(SHARED, 0xCD, np.uint8)
        # Which warp wrote and read each byte since the last barrier.
        self.writer = np.full(SHARED, NOBODY)
        self.reader = np.full(SHARED, NOBODY)
        # Of each barrier of copies: bytes to come, where bytes came, how often one has waited.
        self.copies: dict[int, tuple[int, list[np.ndarray], int]] = {}

    def run(self) -> None:
        at = 0
        while at < len(self.program.code):
            negated, predicate, operation, operands = self.program.code[at]
            at += 1
            active = np.ones(self.threads, bool)
            if predicate:
                active = self.registers[predicate] ^ negated
            if operation.startswith("bra") or operation == "ret":
                assert active.all() or not active.any(), "a branch that not all threads take"
                if active.all():
                    if operation == "ret":
                        return
                    at = self.program.labels[operands[0]]
            else:
                with np.errstate(all="ignore"):
                    self.step(operation, operands, active)

    def get(self, name: str, dtype: Any) -> np.ndarray:
        """An operand, one value a thread."""
        if name in self.registers:
            value = self.registers[name]
            if value.dtype == bool:
                return value
            wide = np.dtype(f"u{np.dtype(dtype).itemsize}")
            return np.ascontiguousarray(value.astype(wide)).view(dtype)
        if name.startswith("0f"):
            return np.full(self.threads, int(name[2:], 16), np.uint32).view(dtype)
        base, _, more = name.partition("+")
        if base in self.special:
            value = np.broadcast_to(self.special[base], self.threads) + int(more or 0)
            return value.astype(dtype)
        if dtype == np.bool_:
            return np.full(self.threads, int(name) != 0)
        number, size = int(name.rstrip("U"), 0), 8 * np.dtype(dtype).itemsize
        return np.full(self.threads, number % 2**size, f"u{size // 8}").view(dtype)

    def put(self, name: str, value: np.ndarray, active: np.ndarray) -> None:
        if value.dtype != bool:
            value = np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}")
        old = self.registers.get(name)
        if old is not None and old.dtype == value.dtype:
            value = np.where(active, value, old)
        self.registers[name] = value.copy()

    def step(self, operation: str, names: list[str], active: np.ndarray) -> None:
        head, *more = operation.split(".")
        dtype = TYPES.get(more[-1]) if more else None
        special = getattr(self, f"_{head}", None)
        if head == "bar":
            self.writer[self.writer != COPY] = self.reader[:] = NOBODY
        elif head == "fence":
            pass
        elif special:
            special(more, names, active, dtype)
        elif "u16x2" in more:
            x, y = (self.get(name, np.uint32).view(np.uint16) for name in names[1:])
            self.put(names[0], TWO[head](x, y).view(np.uint32), active)
        else:
            values = [self.get(name, dtype) for name in names[1:]]
            result = (ONE if len(values) == 1 else TWO)[head](*values)
            self.put(names[0], result.astype(dtype), active)

    def _mul(self, more, names, active, dtype, plus=None) -> None:
        x, y = (self.get(name, dtype) for name in names[1:3])
        if "wide" in more:
            dtype = np.int64 if dtype == np.int32 else np.uint64
        x, y = x.astype(dtype), y.astype(dtype)
        self.put(names[0], x * y if plus is None else x * y + self.get(plus, dtype), active)

    def _mad(self, more, names, active, dtype) -> None:
        self._mul(more, names, active, dtype, names[3])

    def _fma(self, more, names, active, dtype) -> None:
        x, y, z = (self.get(name, dtype).astype(np.float64) for name in names[1:])
        self.put(names[0], (x * y + z).astype(dtype), active)

    def _shl(self, more, names, active, dtype) -> None:
        by = self.get(names[2], np.uint32).astype(dtype)
        self.put(names[0], self.get(names[1], dtype) << by, active)

    def _shr(self, more, names, active, dtype) -> None:
        by = self.get(names[2], np.uint32).astype(dtype)
        self.put(names[0], self.get(names[1], dtype) >> by, active)

    def _bfe(self, more, names, active, dtype) -> None:
        start, bits = (int(name) for name in names[2:])
        size = 8 * np.dtype(dtype).itemsize
        left = self.get(names[1], dtype) << dtype(size - bits - start)
        self.put(names[0], left >> dtype(size - bits), active)

    def _setp(self, more, names, active, dtype) -> None:
        x, y = (self.get(name, dtype) for name in names[1:])
        self.put(names[0], COMPARE[more[0]](x, y), active)

    def _selp(self, more, names, active, dtype) -> None:
        x, y = (self.get(name, dtype) for name in names[1:3])
        self.put(names[0], np.where(self.registers[names[3]], x, y), active)

    def _mov(self, more, names, active, dtype) -> None:
        if names[1].startswith("{"):
            low, high = (self.get(name, np.uint16).astype(np.uint32) for name in listed(names[1]))
            self.put(names[0], low | high << np.uint32(16), active)
        else:
            self.put(names[0], self.get(names[1], dtype), active)

    def _cvt(self, more, names, active, dtype) -> None:
        if "e4m3x2" in more:
            high, low = (self.get(name, np.float32).copy() for name in names[1:])
            both = torch.from_numpy(np.stack([low, high], 1)).clamp(-448, 448)
            codes = both.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
            self.put(names[0], codes.view(np.uint16)[:, 0], active)
        else:
            self.put(names[0], self.get(names[1], dtype).astype(TYPES[more[-2]]), active)

    def _shfl(self, more, names, active, dtype) -> None:
        lane = np.arange(self.threads)
        lane = lane ^ int(names[2]) if more[1] == "bfly" else lane // 32 * 32 + int(names[2])
        self.put(names[0], self.get(names[1], dtype)[lane], active)

    def _elect(self, more, names, active, dtype) -> None:
        self.put(names[0].split("|")[1], np.arange(self.threads) % 32 == 0, active)

    def _cvta(self, more, names, active, dtype) -> None:
        self.put(names[0], self.get(names[1], np.uint64), active)

    def _mbarrier(self, more, names, active, dtype) -> None:
        place = int(self.address(next(name for name in names if name.startswith("[")))[0])
        expected, arrived, waits = self.copies.get(place, (0, [], 0))
        if "expect_tx" in more:
            expected += active.sum() * int(names[2])
        elif "try_wait" in more:
            came = sum(map(np.size, arrived))
            parity = int(self.get(names[2], np.uint32)[0])
            assert expected == came > 0 and parity == waits % 2, "waits for what does not come"
            for index in arrived:
                self.writer[index] = NOBODY
            expected, arrived, waits = 0, [], waits + 1
            self.put(names[0], active, active)
        self.copies[place] = expected, arrived, waits

    def _cp(self, more, names, active, dtype) -> None:
        """Copy boxes as wide as a swizzle of 128 bytes; what lies outside of a matrix is zero."""
        assert "tensor" in more and "complete_tx::bytes" in "::".join(more), more
        found = re.fullmatch(r"\[(.+?),\{(.+?),(.+?)\}\]", names[1])
        assert found, names
        bar, shared = int(self.address(names[2])[0]), self.address(names[0])
        which, column, row = (self.get(name, np.int64) for name in found.groups())
        for thread in np.flatnonzero(active):
            start, matrix = self.matrices[which[thread]]
            size, (height, width) = matrix.base.element_size(), matrix.shape
            at = np.arange(matrix.block_shape[0])[:, None]
            rows = int(row[thread].astype(np.int32)) + at
            byte = int(column[thread].astype(np.int32)) * size + np.arange(128)
            inside = (rows >= 0) & (rows < height) & (byte >= 0) & (byte < width * size)
            source = start + rows * matrix.strides[0] * size + byte
            index = shared[thread] + at * 128 + np.arange(128)
            assert shared[thread] % 1024 == 0
            index ^= (index >> 7 & 7) << 4
            idle = (self.writer[index] == NOBODY) & (self.reader[index] == NOBODY)
            assert idle.all(), "a copy to where a warp has read or written with no barrier between"
            self.shared[index] = np.where(inside, self.memory[np.where(inside, source, 0)], 0)
            self.writer[index] = COPY
            expected, arrived, waits = self.copies.get(bar, (0, [], 0))
            self.copies[bar] = expected, [*arrived, index], waits

    def _prmt(self, more, names, active, dtype) -> None:
        both = np.stack([self.get(name, np.uint32) for name in names[1:3]], 1).view(np.uint8)
        pick = int(names[3].rstrip("U"), 0)
        taken = both[:, [pick >> 4 * i & 7 for i in range(4)]]
        self.put(names[0], np.ascontiguousarray(taken).view(np.uint32)[:, 0], active)

    def _ld(self, more, names, active, dtype) -> None:
        if more[0] == "param":
            value = self.arguments[names[1].strip("[]")] % 2**64
            self.put(names[0], np.full(self.threads, value, np.uint64).astype(dtype), active)
            return
        registers = listed(names[0])
        index, memory = self.bytes_at(names[1], len(registers) * np.dtype(dtype).itemsize, active)
        if more[0] == "shared":
            self.touch(index, active, None)
        values = memory[index].view(dtype)
        for number, name in enumerate(registers):
            known = name in self.registers
            whole = self.get(name, dtype).copy() if known else np.zeros(self.threads, dtype)
            whole[active] = values[:, number]
            self.put(name, whole, active | True)

    def _st(self, more, names, active, dtype) -> None:
        values = np.stack([self.get(name, dtype)[active] for name in listed(names[1])], 1)
        values = values.view(np.uint8)
        index, memory = self.bytes_at(names[0], values.shape[1], active)
        if more[0] == "shared":
            self.touch(index, active, values)
        memory[index] = values

    def address(self, text: str) -> np.ndarray:
        """Where each thread points to with [register + offset]; global pointers have 64 bits."""
        name, _, more = text.strip("[]").partition("+")
        dtype = np.uint64 if name.startswith("%rd") else np.uint32
        return self.get(name, dtype).astype(np.int64) + int(more or 0)

    def bytes_at(self, text: str, size: int, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of bytes [active threads, size] and the memory they are of."""
        address, memory = self.address(text)[active], self.memory if "%rd" in text else self.shared
        assert not (address % size).any(), "a word that starts inside another"
        assert ((address >= 0) & (address + size <= len(memory))).all(), "an address out of range"
        return address[:, None] + np.arange(size), memory

    def touch(self, index: np.ndarray, active: np.ndarray, values: np.ndarray | None) -> None:
        """Note the bytes of shared memory that each warp reads or, with `values`, writes."""
        warps = np.flatnonzero(active) // 32
        for warp in np.unique(warps):
            mine = index[warps == warp]
            raced = ~np.isin(self.writer[mine], (NOBODY, warp))
            if values is not None:
                # Several warps may write the same.
                raced &= self.shared[mine] != values[warps == warp]
                raced |= ~np.isin(self.reader[mine], (NOBODY, warp))
                self.shared[mine] = values[warps == warp]
            assert not raced.any(), "warps touch the same shared memory with no barrier between"
            table = self.reader if values is None else self.writer
            table[mine] = np.where(np.isin(table[mine], (NOBODY, warp)), warp, SEVERAL)

    def _matrices(self, place: str, number: int) -> list[np.ndarray]:
        """Bytes [threads, 4] of each 8 x 8 matrix: its rows are where eight threads point to."""
        rows = self.address(place).reshape(-1, 32)
        lane = np.arange(32)
        starts = [rows[:, 8 * i + lane // 4] + 4 * (lane % 4) for i in range(number)]
        return [start.reshape(-1, 1) + np.arange(4) for start in starts]

    def _ldmatrix(self, more, names, active, dtype) -> None:
        assert "trans" not in more
        registers = listed(names[0])
        for name, index in zip(registers, self._matrices(names[1], len(registers)), strict=True):
            self.touch(index, active, None)
            self.put(name, self.shared[index].view(np.uint32)[:, 0], active)

    def _stmatrix(self, more, names, active, dtype) -> None:
        assert "trans" not in more
        registers = listed(names[1])
        for name, index in zip(registers, self._matrices(names[0], len(registers)), strict=True):
            values = self.get(name, np.uint32).copy().view(np.uint8).reshape(-1, 4)
            self.touch(index, active, values)


def listed(text: str) -> list[str]:
    """Registers of a vector, or the one."""
    return text.strip("{}").split(",")


def launch(
    kernel: Any, grid: Sequence[int], tensors: Sequence[torch.Tensor], *args: Any, **constants: Any
) -> None:
    """`launching.launch` for tensors on the CPU: compiles for Hopper (see `aot.without_gpu`) and
    runs what came out.

    Raises:
        AssertionError: the kernel races, or writes outside of the tensors it was given.
    """
    given = [arg.checked() if isinstance(arg, Matrix) else arg for arg in args]
    compiled = kernel.warmup(*given, grid=grid, **constants)
    bases = [arg.base if isinstance(arg, Matrix) else arg for arg in args]
    storages = {a.untyped_storage().data_ptr(): a for a in bases if isinstance(a, torch.Tensor)}
    places, parts, size = {}, [], GUARD
    for start, tensor in storages.items():
        flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        places[start] = size
        parts.append((size, flat.numpy()))
        size += -(-flat.numel() // GUARD) * GUARD + GUARD
    memory = np.full(size, 0xA5, np.uint8)
    free = np.ones(size, bool)
    for place, flat in parts:
        memory[place : place + len(flat)] = flat
        free[place : place + len(flat)] = False
    signature, values, matrices = compiled.src.signature, [], {}
    for name, value, base in zip(kernel.arg_names, args, bases, strict=False):
        if isinstance(base, torch.Tensor):
            start = base.untyped_storage().data_ptr()
            place = places[start] + base.data_ptr() - start
        if isinstance(value, Matrix):
            # Not a place in memory: what describes the matrix.
            matrices[-1 - len(matrices)] = place, value
            values += [-len(matrices), *value.shape, *value.strides]
        elif signature[name] != "constexpr":
            values.append(place if isinstance(value, torch.Tensor) else value)
    program = Program(compiled.asm["ptx"])
    # The last two are scratch memory, which these kernels have none of.
    arguments = dict(zip(program.parameters, [*values, 0, 0], strict=True))
    grid = (*grid, 1, 1)[:3]
    for index in np.ndindex(*reversed(grid)):
        Cta(program, memory, arguments, matrices, index[::-1], grid).run()
    assert (memory[free] == 0xA5).all(), "a write outside of the tensors"
    for place, flat in parts:
        flat[:] = memory[place : place + len(flat)]
