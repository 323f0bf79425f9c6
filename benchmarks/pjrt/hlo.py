"""Reads lowered programs: what they update, how many FLOPs their matrix products have.

TensorFlow hands out the HLO before any optimization, so every convolution and matrix product of the
graph is there as one instruction, with its shapes.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

Module = hlo_pb2.HloModuleProto
Computation = hlo_pb2.HloComputationProto

# HLO's names for the element types that occur here.
_DTYPES = {
    "PRED": "bool",
    "S32": "int32",
    "S64": "int64",
    "U8": "uint8",
    "F32": "float32",
    "BF16": "bfloat16",
}


def parse(serialized: bytes) -> Module:
    """Parses a program, without what differs from one lowering to the next.

    Names contain running numbers of TensorFlow, and the metadata has paths of this machine. A
    program refers to its parts by number.

    Args:
      serialized: what TensorFlow calls `hlo_serialized`.

    Returns:
      The program, which can be serialized again.
    """
    module = Module.FromString(serialized)
    module.name = "program"
    module.ClearField("stack_frame_index")
    module.ClearField("id")
    for computation in module.computations:
        if computation.id == module.entry_computation_id:
            module.entry_computation_name = f"computation.{computation.id}"
        computation.name = f"computation.{computation.id}"
        for instruction in computation.instructions:
            instruction.name = f"{instruction.opcode}.{instruction.id}"
            instruction.ClearField("metadata")
    return module


def parameters(module: Module) -> list[tuple[tuple[int, ...], str]]:
    """Returns the shape and the dtype of every argument."""
    return [
        (tuple(shape.dimensions), _dtype(shape)) for shape in module.host_program_shape.parameters
    ]


def updates(module: Module) -> list[tuple[int, int]]:
    """Returns pairs (output, argument): the argument of the next call, such as a weight."""
    return [
        (entry.output_shape_index[0], entry.parameter_number)
        for entry in module.input_output_alias.entries
    ]


def custom_calls(module: Module) -> set[str]:
    """Returns the names of calls that only one kind of device may know."""
    return {
        instruction.custom_call_target
        for computation in module.computations
        for instruction in computation.instructions
        if instruction.opcode == "custom-call"
    }


def matrix_flops(module: Module) -> dict[str, int]:
    """Counts the FLOPs of all matrix products and convolutions: two for each multiplication.

    Multiplications by the zeros of a convolution's padding or dilation do not count. A loop counts
    as often as it runs, and of the branches of a condition the most expensive one counts.

    Args:
      module: the program.

    Returns:
      By dtype of the factors, the number of FLOPs.

    Raises:
      ValueError: if there are products in a loop whose number of rounds is not in the program.
    """
    computations = {computation.id: computation for computation in module.computations}
    known: dict[int, Counter[str]] = {}

    def of_computation(index: int) -> Counter[str]:
        if index not in known:
            computation = computations[index]
            by_id = {instruction.id: instruction for instruction in computation.instructions}
            known[index] = sum((of_instruction(i, by_id) for i in by_id.values()), Counter())
        return known[index]

    def of_instruction(
        instruction: hlo_pb2.HloInstructionProto, by_id: Mapping[int, hlo_pb2.HloInstructionProto]
    ) -> Counter[str]:
        if instruction.opcode in _FLOPS:
            left, right = (by_id[index].shape for index in instruction.operand_ids)
            return Counter({_dtype(left): _FLOPS[instruction.opcode](instruction, left, right)})
        called = [of_computation(index) for index in instruction.called_computation_ids]
        if instruction.opcode == "conditional":
            return max(called, key=Counter.total)
        once = sum(called, Counter())
        if instruction.opcode != "while" or not once:
            return once
        condition = computations[instruction.called_computation_ids[1]]
        limits = list(_limits(condition, computations))
        if not limits:
            raise ValueError("a loop with matrix products has no fixed number of rounds")
        # TensorFlow's loops count from 0, in steps of 1, until the first limit.
        rounds = min(limits)
        return Counter({dtype: rounds * flops for dtype, flops in once.items()})

    return dict(of_computation(module.entry_computation_id))


def _limits(condition: Computation, computations: Mapping[int, Computation]) -> Iterator[int]:
    """Yields the constants that the counters of a loop are compared with."""
    by_id = {instruction.id: instruction for instruction in condition.instructions}
    for instruction in condition.instructions:
        if instruction.opcode == "compare" and instruction.comparison_direction == "LT":
            limit = by_id[instruction.operand_ids[1]]
            if limit.opcode == "constant" and limit.literal.s32s:
                yield limit.literal.s32s[0]
        for index in instruction.called_computation_ids:
            yield from _limits(computations[index], computations)


def _dot_flops(
    dot: hlo_pb2.HloInstructionProto,
    left: xla_data_pb2.ShapeProto,
    right: xla_data_pb2.ShapeProto,
) -> int:
    del right
    summed = [
        left.dimensions[axis] for axis in dot.dot_dimension_numbers.lhs_contracting_dimensions
    ]
    return 2 * math.prod(dot.shape.dimensions) * math.prod(summed)


def _convolution_flops(
    convolution: hlo_pb2.HloInstructionProto,
    inputs: xla_data_pb2.ShapeProto,
    kernel: xla_data_pb2.ShapeProto,
) -> int:
    axes = convolution.convolution_dimension_numbers
    products = 2 * kernel.dimensions[axes.kernel_input_feature_dimension]
    products *= convolution.shape.dimensions[axes.output_feature_dimension]
    products *= inputs.dimensions[axes.input_batch_dimension] // convolution.batch_group_count
    for window, input_axis, output_axis in zip(
        convolution.window.dimensions,
        axes.input_spatial_dimensions,
        axes.output_spatial_dimensions,
        strict=True,
    ):
        input_size = inputs.dimensions[input_axis]
        products *= _num_products(window, input_size, convolution.shape.dimensions[output_axis])
    return products


def _num_products(window: xla_data_pb2.WindowDimension, inputs: int, outputs: int) -> int:
    """Returns how often a weight meets a value of the input, not of padding, along one axis."""
    starts = np.arange(outputs)[:, np.newaxis] * window.stride - window.padding_low
    positions = starts + np.arange(window.size) * window.window_dilation
    is_value = (positions >= 0) & (positions % window.base_dilation == 0)
    return int(np.count_nonzero(is_value & (positions // window.base_dilation < inputs)))


def _dtype(shape: xla_data_pb2.ShapeProto) -> str:
    return _DTYPES[xla_data_pb2.PrimitiveType.Name(shape.element_type)]


_FLOPS = {"dot": _dot_flops, "convolution": _convolution_flops}
