"""Matrix-product states and operators: trains with bounds, QTT operators, matrix-free TT-cross."""

from __future__ import annotations

from qcluster.quantum.mps.attention import LocalAttention
from qcluster.quantum.mps.cross import tt_cross
from qcluster.quantum.mps.operators import FORMS, Operator, certify, encode, encode_entries
from qcluster.quantum.mps.train import TensorTrain, round_train, tt_svd

__all__ = [
    "FORMS",
    "LocalAttention",
    "Operator",
    "TensorTrain",
    "certify",
    "encode",
    "encode_entries",
    "round_train",
    "tt_cross",
    "tt_svd",
]
