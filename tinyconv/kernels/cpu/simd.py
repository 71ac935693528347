"""Explicit vectors: the three inner loops that the compiler does not find by itself, built as LLVM instructions.

``multiply_tile`` keeps a tile of a matrix product in vector registers while it runs along the sum: each step
loads a few vectors of one factor, repeats one number of the other in a vector of its own, and does rows x vectors
fused multiply-adds. Nothing goes through memory but what is read once, which is why it reaches the peak of a core where
the same loops, vectorised by the compiler, reach a third.

``transpose_tile`` turns a square of LANES x LANES numbers by log2(LANES) rounds of interleaving rows.

``sandwich`` multiplies a small square of vectors by a small constant matrix from both sides.

A vector fills a register: 16 float32 with AVX-512, 8 with AVX2, 4 on other machines. Source of the tile: Goto and
van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34(3), 2008.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_FEATURES = llvmlite.binding.get_host_cpu_features()
_WIDE = _FEATURES.get("avx512f", False)
#: Bytes of a vector register.
VECTOR_BYTES = 64 if _WIDE else 32 if _FEATURES.get("avx2", False) else 16
#: Rows of a tile: with three vectors a row it fills 24 of 32 registers, or 12 of 16.
ROWS = 8 if _WIDE or not _FEATURES.get("sse2", False) else 4


def lanes(itemsize: int) -> int:
    """Numbers of a vector."""
    return VECTOR_BYTES // itemsize


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The address of an array's first element."""
    return context.make_array(kind)(context, builder, array).data


def _vector_at(builder: Any, pointer: Any, offset: Any, vector: ir.VectorType) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())


def _integer(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _repeat(builder: Any, number: Any, vector: ir.VectorType) -> Any:
    """A vector with ``number`` in all lanes."""
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def _multiply_add(builder: Any, vector: ir.VectorType, size: int) -> Any:
    """The function x * y + z of vectors of numbers of ``size`` bytes."""
    kind, name = ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{vector.count}f{8 * size}"
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _opaque(builder: Any, number: Any) -> Any:
    """The same integer, by an empty piece of assembly that the compiler cannot look into.

    Where it sees that several addresses have a part in common, it adds them up as a vector and takes them apart again,
    which makes the tile three times slower.
    """
    kind = ir.FunctionType(number.type, [number.type])
    return builder.asm(kind, "", "=r,0", [number], False)


def _multiply_tile(rows_of_tile: int, vectors: int, lanewise: bool = False) -> Any:
    @intrinsic
    def multiply(
        typing: Any, acc: Any, at: Any, pitch: Any, a: Any, rows: Any, steps: Any, b: Any, shift: Any, cols: Any, n: Any
    ) -> Any:
        i = types.intp
        signature = types.void(acc, i, i, a, rows, steps, b, i, cols, i)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            element = context.get_value_type(kinds[0].dtype)
            size = context.get_abi_sizeof(element)
            vector = ir.VectorType(element, lanes(size))
            width, count = vector.count, args[9]
            fma = _multiply_add(builder, vector, size)
            acc_p, a_p, rows_p, steps_p, b_p, cols_p = (
                _data(context, builder, kinds[p], args[p]) for p in (0, 3, 4, 5, 6, 8)
            )
            b_p = builder.gep(b_p, [args[7]])
            places = [(m, v) for m in range(rows_of_tile) for v in range(vectors)]
            slots = {}
            for m, v in places:
                offset = builder.add(args[1], builder.add(builder.mul(args[2], _integer(m)), _integer(v * width)))
                slots[m, v] = _vector_at(builder, acc_p, offset, vector)
            start = {place: builder.load(slot, align=size) for place, slot in slots.items()}
            row_starts = [builder.load(builder.gep(rows_p, [_integer(m)])) for m in range(rows_of_tile)]
            factors = [builder.gep(a_p, [first]) for first in row_starts]

            before = builder.block
            body, done = builder.append_basic_block("step"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", count, _integer(0)), body, done)
            builder.position_at_end(body)
            step = builder.phi(ir.IntType(64))
            step.add_incoming(_integer(0), before)
            sums = {place: builder.phi(vector) for place in places}
            column = builder.load(builder.gep(cols_p, [step]))
            b_v = [
                builder.load(_vector_at(builder, b_p, builder.add(column, _integer(v * width)), vector), align=size)
                for v in range(vectors)
            ]
            added, position = {}, _opaque(builder, builder.load(builder.gep(steps_p, [step])))
            for m in range(rows_of_tile):
                if lanewise:
                    factor = builder.load(_vector_at(builder, factors[m], position, vector), align=size)
                else:
                    factor = _repeat(builder, builder.load(builder.gep(factors[m], [position])), vector)
                for v in range(vectors):
                    added[m, v] = builder.call(fma, [factor, b_v[v], sums[m, v]])
            after = builder.add(step, _integer(1))
            step.add_incoming(after, body)
            builder.cbranch(builder.icmp_signed("<", after, count), body, done)
            for place in places:
                sums[place].add_incoming(start[place], before)
                sums[place].add_incoming(added[place], body)

            builder.position_at_end(done)
            for place in places:
                last = builder.phi(vector)
                last.add_incoming(start[place], before)
                last.add_incoming(added[place], body)
                slots[place] = last, slots[place]
            for last, slot in slots.values():
                builder.store(last, slot, align=size)
            return context.get_dummy_value()

        return signature, generate

    return multiply


#: multiply_tile[rows, vectors](acc, at, pitch, a, rows, steps, b, shift, columns, n), on flat arrays:
#: for m < rows and l < vectors * LANES
#:     acc[at + m*pitch + l] += sum over t < n of a[rows[m] + steps[t]] * b[shift + columns[t] + l]
#: in the order of t. Nothing checks that the indices lie inside.
multiply_tile = {shape: _multiply_tile(*shape) for shape in ((ROWS, 3), (ROWS, 2), (ROWS, 1))}

#: multiply_lanes[rows], with the same arguments: each lane has numbers of its own,
#:     acc[at + m*pitch + l] += sum over t < n of a[rows[m] + steps[t] + l] * b[shift + columns[t] + l]
multiply_lanes = {rows: _multiply_tile(rows, 1, lanewise=True) for rows in (ROWS, 1)}


@intrinsic
def transpose_tile(typing: Any, out: Any, to: Any, out_pitch: Any, a: Any, at: Any, pitch: Any) -> Any:
    """out[to + j*out_pitch + i] = a[at + i*pitch + j] for i, j < LANES, on flat arrays."""
    signature = types.void(out, types.intp, types.intp, a, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        element = context.get_value_type(kinds[0].dtype)
        size = context.get_abi_sizeof(element)
        width = lanes(size)
        vector = ir.VectorType(element, width)
        out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 3))

        def row(pointer: Any, first: Any, pitch: Any, i: int) -> Any:
            return _vector_at(builder, pointer, builder.add(first, builder.mul(pitch, _integer(i))), vector)

        rows = [builder.load(row(a_p, args[4], args[5], i), align=size) for i in range(width)]
        # A perfect shuffle of the rows' numbers, log2(width) times, brings column j together in row j.
        for _ in range(width.bit_length() - 1):
            half = width // 2
            low = [n // 2 + (width if n % 2 else 0) for n in range(width)]
            high = [n + half for n in low]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), width), mask) for mask in (low, high)]
            rows = [builder.shuffle_vector(rows[i // 2], rows[i // 2 + half], masks[i % 2]) for i in range(width)]
        for j in range(width):
            builder.store(rows[j], row(out_p, args[1], args[2], j), align=size)
        return context.get_dummy_value()

    return signature, generate


def _deal_tile(rows: int) -> Any:
    @intrinsic
    def deal(typing: Any, out: Any, to: Any, pitch: Any, a: Any, at: Any) -> Any:
        signature = types.void(out, types.intp, types.intp, a, types.intp)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            element = context.get_value_type(kinds[0].dtype)
            size = context.get_abi_sizeof(element)
            width = lanes(size)
            vector = ir.VectorType(element, width)
            out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 3))
            places = [builder.add(args[4], _integer(i * width)) for i in range(rows)]
            dealt = [builder.load(_vector_at(builder, a_p, place, vector), align=size) for place in places]
            evens = [2 * n for n in range(width)]
            masks = [
                ir.Constant(ir.VectorType(ir.IntType(32), width), mask) for mask in (evens, [n + 1 for n in evens])
            ]
            for _ in range(rows.bit_length() - 1):  # every second number into the first half of the rows
                dealt = [
                    builder.shuffle_vector(dealt[2 * i], dealt[2 * i + 1], mask)
                    for mask in masks
                    for i in range(rows // 2)
                ]
            for i, row in enumerate(dealt):
                offset = builder.add(args[1], builder.mul(args[2], _integer(i)))
                builder.store(row, _vector_at(builder, out_p, offset, vector), align=size)
            return context.get_dummy_value()

        return signature, generate

    return deal


#: deal_tile[rows](out, to, pitch, a, at), on flat arrays:
#: out[to + i*pitch + j] = a[at + j*rows + i] for i < rows and j < LANES.
deal_tile = {rows: _deal_tile(rows) for rows in (4, 8)}


def _copy_vector(part: int) -> Any:
    @intrinsic
    def copy(typing: Any, out: Any, to: Any, a: Any, at: Any) -> Any:
        signature = types.void(out, types.intp, a, types.intp)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            element = context.get_value_type(kinds[0].dtype)
            size = context.get_abi_sizeof(element)
            vector = ir.VectorType(element, max(1, lanes(size) // part))
            out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 2))
            value = builder.load(_vector_at(builder, a_p, args[3], vector), align=size)
            builder.store(value, _vector_at(builder, out_p, args[1], vector), align=size)
            return context.get_dummy_value()

        return signature, generate

    return copy


#: copy_vector[part](out, to, a, at), on flat arrays: out[to + j] = a[at + j] for j < LANES / part.
copy_vector = {part: _copy_vector(part) for part in (1, 2, 4)}


@intrinsic
def clear_vector(typing: Any, out: Any, to: Any) -> Any:
    """out[to + j] = 0 for j < LANES, on a flat array."""
    signature = types.void(out, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_value_type(signature.args[0].dtype)
        size = context.get_abi_sizeof(element)
        vector = ir.VectorType(element, lanes(size))
        place = _vector_at(builder, _data(context, builder, signature.args[0], args[0]), args[1], vector)
        builder.store(ir.Constant(vector, None), place, align=size)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_every_second(typing: Any, out: Any, to: Any, a: Any, at: Any) -> Any:
    """out[to + j] = a[at + 2j] for j < LANES, on flat arrays; reads nothing beyond a[at + 2 LANES - 2]."""
    signature = types.void(out, types.intp, a, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        element = context.get_value_type(kinds[0].dtype)
        size = context.get_abi_sizeof(element)
        width = lanes(size)
        vector = ir.VectorType(element, width)
        out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 2))
        low, high = (
            builder.load(_vector_at(builder, a_p, builder.add(args[3], _integer(first)), vector), align=size)
            for first in (0, width - 1)
        )
        places = [2 * j if 2 * j < width else 2 * j + 1 for j in range(width)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), width), places)
        builder.store(builder.shuffle_vector(low, high, mask), _vector_at(builder, out_p, args[1], vector), align=size)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def copy_to_every_second(typing: Any, out: Any, to: Any, a: Any, at: Any, count: Any) -> Any:
    """out[to + 2j] = a[at + j] for j < count <= LANES, on flat arrays; a is read up to a vector."""
    signature = types.void(out, types.intp, a, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        element = context.get_value_type(kinds[0].dtype)
        size = context.get_abi_sizeof(element)
        width, number = lanes(size), ir.IntType(32)
        vector, flags = ir.VectorType(element, width), ir.VectorType(ir.IntType(1), width)
        out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 2))
        numbers = builder.load(_vector_at(builder, a_p, args[3], vector), align=size)
        kind = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), number, flags])
        name = f"llvm.masked.store.v{width}f{8 * size}.p0"
        store = cgutils.get_or_insert_function(builder.module, kind, name)
        count = _repeat(builder, builder.trunc(args[4], number), ir.VectorType(number, width))
        # What lies between is not written: it may be another thread's.
        even = ir.Constant(flags, [lane % 2 == 0 for lane in range(width)])
        for half in range(2):
            places = ir.Constant(ir.VectorType(number, width), [(half * width + lane) // 2 for lane in range(width)])
            mask = builder.and_(even, builder.icmp_signed("<", places, count))
            spread = builder.shuffle_vector(numbers, numbers, places)
            place = _vector_at(builder, out_p, builder.add(args[1], _integer(half * width)), vector)
            builder.call(store, [spread, place, ir.Constant(number, size), mask])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def prefetch(typing: Any, a: Any, at: Any) -> Any:
    """Begin to bring a[at] of a flat array into the cache. Harmless where that lies outside."""
    signature = types.void(a, types.intp)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(_data(context, builder, signature.args[0], args[0]), [args[1]])
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        instruction = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(instruction, [builder.bitcast(address, byte), read, near, data])
        return context.get_dummy_value()

    return signature, generate


def sandwich(*factors: Any) -> Any:
    """A function f(out, to, row, column, a, at, a_row, a_column) that computes T A T^t, T the product of ``factors``.

    A and the result are squares of vectors on flat arrays: element (i, j) is the vector at ``to + i*row +
    j*column``. Only what is not zero in the constant factors, the last of which is applied first, costs an operation.
    """

    @intrinsic
    def multiply(
        typing: Any, out: Any, to: Any, row: Any, column: Any, a: Any, at: Any, a_row: Any, a_column: Any
    ) -> Any:
        i = types.intp
        signature = types.void(out, i, i, i, a, i, i, i)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            element = context.get_value_type(kinds[0].dtype)
            size = context.get_abi_sizeof(element)
            vector = ir.VectorType(element, lanes(size))
            out_p, a_p = (_data(context, builder, kinds[p], args[p]) for p in (0, 4))
            fma = _multiply_add(builder, vector, size)

            def slot(pointer: Any, first: Any, row: Any, column: Any, i: int, j: int) -> Any:
                offset = builder.add(builder.mul(row, _integer(i)), builder.mul(column, _integer(j)))
                return _vector_at(builder, pointer, builder.add(first, offset), vector)

            def combined(weights: Any, vectors: Any) -> Any:
                """The sum of weight times vector."""
                total = None
                for weight, v in sorted(zip(weights, vectors), key=lambda pair: abs(abs(pair[0]) - 1)):
                    if weight == 0:
                        continue
                    if abs(weight) == 1 and total is not None:
                        total = (builder.fadd if weight > 0 else builder.fsub)(total, v)
                        continue
                    constant = ir.Constant(vector, [float(weight)] * vector.count)
                    if total is not None:
                        total = builder.call(fma, [constant, v, total])
                    else:
                        total = v if weight == 1 else builder.fmul(constant, v)
                return total

            size_in, size_out = len(factors[-1][0]), len(factors[0])
            square = [
                [builder.load(slot(a_p, args[5], args[6], args[7], i, j), align=size) for j in range(size_in)]
                for i in range(size_in)
            ]
            for _ in range(2):  # the columns, then, turned, the rows
                turned = []
                for column in map(list, zip(*square)):
                    for factor in reversed(factors):
                        column = [combined(weights, column) for weights in factor]
                    turned.append(column)
                square = turned
            for i in range(size_out):
                for j in range(size_out):
                    builder.store(square[i][j], slot(out_p, args[1], args[2], args[3], i, j), align=size)
            return context.get_dummy_value()

        return signature, generate

    return multiply
