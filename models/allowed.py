"""What a packaged SavedModel may do: known operations on tensors, and nothing with files or code.

Loading a SavedModel runs a part of it (what makes and fills its resources), and `embed` runs
another. Both are read here, as data, before TensorFlow loads anything. The functions with which a
SavedModel saves and restores itself hold file operations; they are neither reached nor run:
TensorFlow reads the variables itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.backend import saved_model_proto
from transformations.errors import InputError

SAVED_MODEL = "saved_model.pb"
OTHERS = ("saved_model.pbtxt", "saved_model.cpb")
"""Forms that TensorFlow would take in place of it, and that are not read here."""

_STATELESS = """
Abs AccumulateNV2 Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh
Atan Atan2 Atanh AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3
BatchNormWithGlobalNormalization BatchToSpaceND BiasAdd BiasAddV1 Bincount BitwiseAnd BitwiseOr
BitwiseXor BroadcastTo Bucketize Cast Ceil Cholesky ClipByValue ConcatV2 Const Conv Conv2D Cos
Cosh Cross Cumprod Cumsum CumulativeLogsumexp DataFormatDimMap DataFormatVecPermute
DenseBincount DepthwiseConv2dNative Diag DiagPart Div DivNoNan DynamicPartition DynamicStitch
Einsum Elu EmptyTensorList EnsureShape Equal Erf Erfc Erfinv EuclideanNorm Exp ExpandDims Expint
Expm1 Fill Floor FloorDiv FloorMod FusedBatchNormV3 Gather GatherNd GatherV2 Greater
GreaterEqual Identity IdentityN Inv InvertPermutation IsFinite IsInf IsNan L2Loss LeakyRelu Less
LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr Lu MatMul MatrixBandPart
MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2
MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2
MatrixSetDiagV3 MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool
MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mod Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike
Pack Pad PadV2 PartitionedCall Placeholder PlaceholderWithDefault Pow PreventGradient Prod Qr
Range Rank RealDiv Reciprocal Relu Relu6 Reshape Reverse ReverseSequence ReverseV2 Rint Round
Rsqrt ScatterNd ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2 SegmentMean SegmentMin
SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Select SelectV2 Selu Shape ShapeN
Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyWithLogits Softplus Softsign
SpaceToBatchND Spence Split SplitV Sqrt Square SquaredDifference Squeeze StatelessCase
StatelessIf StatelessWhile StopGradient StridedSlice StridedSliceAssign Sub Sum Tan Tanh
TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
TensorListPushBackBatch TensorListReserve TensorListResize TensorListScatter
TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit
TensorListStack TensorStridedSliceUpdate Tile TopK TopKV2 Transpose TridiagonalSolve TruncateDiv
TruncateMod Unique UniqueV2 Unpack UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
UnsortedSegmentSum Where Xdivy Xlog1py Xlogy ZerosLike
"""
_STATEFUL = """
Assert Case HashTableV2 If LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2
ReadVariableOp StatefulPartitionedCall VarHandleOp VariableShape While
"""
STATELESS = frozenset(_STATELESS.split())
STATEFUL = frozenset(_STATEFUL.split())
"""Calls and branches, variables that are read, tables that are filled from constants."""
ALLOWED = STATELESS | STATEFUL


def refuse_other_operations(folder: Path, signature: str) -> None:
    """Refuse a SavedModel of which loading or a signature reaches an operation that is not ALLOWED.

    Raises:
        InputError: it does; the message names the operations. Or the folder holds no SavedModel.
    """
    if any((folder / name).exists() for name in OTHERS) or not (folder / SAVED_MODEL).is_file():
        raise InputError(
            f"{folder}: expected a SavedModel with the file {SAVED_MODEL} and neither of "
            f"{', '.join(OTHERS)}"
        )
    try:
        (graph,) = saved_model_proto((folder / SAVED_MODEL).read_bytes()).meta_graphs
    except ValueError as error:
        raise InputError(f"{folder / SAVED_MODEL}: expected one graph, got {error}") from None
    if not graph.object_graph_def.nodes:
        raise InputError(f"{folder}: expected a SavedModel of TensorFlow 2, got one of version 1")
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    roots = {*_run_by_loading(graph.object_graph_def), *_run_by(graph.object_graph_def, signature)}
    found: dict[str, str] = {}
    seen: set[str] = set()
    while roots:
        name = roots.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            if node.op in functions:
                roots.add(node.op)
            elif node.op not in ALLOWED:
                found.setdefault(node.op, f"{name}/{node.name}")
            roots |= set(_called(node))
    if found:
        listed = "".join(f"\n  {op} in {place}" for op, place in sorted(found.items()))
        raise InputError(
            f"{folder}: expected operations on tensors only (models/allowed.py), got:{listed}\n"
            "It was not loaded. A package may neither touch files nor run code: make it without "
            "these operations"
        )


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (one.name for one in value.list.func)


def _run_by_loading(objects: Any) -> Iterator[str]:
    """Yield the functions that loading may run: those that make, fill, restore, end a resource."""
    for node in objects.nodes:
        for child in node.children:
            if child.local_name.startswith("_") or child.local_name == "initializer":
                yield from _functions(objects.nodes[child.node_id])
        for saveable in node.saveable_objects.values():
            for number in (saveable.save_function, saveable.restore_function):
                yield from _functions(objects.nodes[number])


def _run_by(objects: Any, signature: str) -> Iterator[str]:
    node = objects.nodes[0]
    for name in ("signatures", signature):
        found = [child.node_id for child in node.children if child.local_name == name]
        if not found:
            return  # that it lacks the signature is said once it is loaded
        node = objects.nodes[found[0]]
    yield from _functions(node)


def _functions(node: Any) -> Iterator[str]:
    if node.WhichOneof("kind") == "bare_concrete_function":
        yield node.bare_concrete_function.concrete_function_name
    elif node.WhichOneof("kind") == "function":
        yield from node.function.concrete_functions
