"""The contention classifier: a support vector machine over layout features.

Kernels: ``rbf`` (Gaussian) and ``quantum`` (fidelity of IQP feature states, one qubit a feature:
Havlíček et al., 2019; simulated here, without PennyLane). Neither is claimed to beat the other.
Fitting takes scikit-learn's solver (LIBSVM: Chang and Lin, 2011); deciding takes NumPy alone.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink.contention.cases import THRESHOLD, History
from qcluster.q_nvlink.contention.features import FEATURES

__all__ = ["KERNELS", "ContentionModel", "default_model", "fit_contention"]

KERNELS = ("rbf", "quantum")
_WIDTH = {"rbf": 0.1, "quantum": 0.3}  # gamma; radians a standard deviation
_PENALTY = 3.0
_SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True, eq=False)
class ContentionModel:
    """A fitted classifier: ``decision`` above 0 means contended.

    ``support`` (points, 8) are standardised features with coefficients ``dual`` (points,).
    ``rows`` is how many layouts it learned from, ``threshold`` what contended means.
    """

    kernel: str
    width: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    support: NDArray[np.float64]
    dual: NDArray[np.float64]
    bias: float
    rows: int
    threshold: float = THRESHOLD

    def decision(self, features: ArrayLike) -> NDArray[np.float64]:
        """(rows,) signed distances for features (rows, 8). Raises InputError for other shapes."""
        x = (_rows(features) - self.mean) / self.scale
        value = _gram(x, self.support, self.kernel, self.width) @ self.dual + self.bias
        return np.asarray(value, dtype=np.float64)

    def contended(self, features: ArrayLike) -> NDArray[np.bool_]:
        """(rows,) whether layouts with these features (rows, 8) are expected to contend."""
        return self.decision(features) > 0

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        from safetensors.numpy import save_file

        arrays = {"mean": self.mean, "scale": self.scale, "support": self.support}
        save_file({**arrays, "dual": self.dual}, str(path))
        about = {
            "kind": "nvlink-contention",
            "version": 1,
            "kernel": self.kernel,
            "width": self.width,
            "bias": self.bias,
            "rows": self.rows,
            "threshold": self.threshold,
            "features": FEATURES,
        }
        Path(f"{path}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ContentionModel:
        """Read what ``save`` wrote. Raises FormatError naming the file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
            arrays = load_file(str(path))
            if about["kind"] != "nvlink-contention" or tuple(about["features"]) != FEATURES:
                raise ValueError("of another kind or with other features")
            if about["kernel"] not in KERNELS:
                raise ValueError(f"kernel '{about['kernel']}'")
            return cls(
                kernel=about["kernel"],
                width=float(about["width"]),
                mean=arrays["mean"].reshape(len(FEATURES)),
                scale=arrays["scale"].reshape(len(FEATURES)),
                support=arrays["support"].reshape(-1, len(FEATURES)),
                dual=arrays["dual"].reshape(len(arrays["support"])),
                bias=float(about["bias"]),
                rows=int(about["rows"]),
                threshold=float(about["threshold"]),
            )
        except OSError as error:
            raise FormatError(error.strerror or "cannot be read", file=path) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"is no saved contention classifier: {error}", file=path) from None


def fit_contention(
    history: History,
    *,
    kernel: str = "rbf",
    penalty: float = _PENALTY,
    width: float | None = None,
    threshold: float = THRESHOLD,
) -> ContentionModel:
    """Fit a classifier to layouts and whether they were contended; both classes weigh alike.

    Parameters
    ----------
    kernel: ``rbf`` or ``quantum``.
    penalty: the cost of a training layout on the wrong side.
    width: gamma of the Gaussian, or radians a standard deviation of the quantum feature map.

    Raises InputError for an unknown kernel, and for a history with one class alone.
    """
    from sklearn.svm import SVC

    if kernel not in KERNELS:
        raise InputError(f"'{kernel}' is none of {', '.join(KERNELS)}", field="kernel")
    x, y = _rows(history.features), np.asarray(history.contended, dtype=bool)
    if y.shape != (len(x),):
        raise InputError(f"wants shape ({len(x)},), got {y.shape}", field="contended")
    if y.all() or not y.any():
        raise InputError("wants layouts of both kinds, contended and not", field="contended")
    width = _WIDTH[kernel] if width is None else width
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = (x - mean) / scale
    machine = SVC(C=penalty, kernel="precomputed", class_weight="balanced")
    machine.fit(_gram(z, z, kernel, width), y)
    return ContentionModel(
        kernel=kernel,
        width=width,
        mean=mean,
        scale=scale,
        support=np.ascontiguousarray(z[machine.support_]),
        dual=np.ascontiguousarray(machine.dual_coef_[0], dtype=np.float64),
        bias=float(machine.intercept_[0]),
        rows=len(x),
        threshold=threshold,
    )


@functools.cache
def default_model(kernel: str = "rbf") -> ContentionModel:
    """The shipped classifier, made by ``benchmarks/nvlink_parts/weights.py``."""
    return ContentionModel.load(_SHIPPED / f"contention-{kernel}.safetensors")


def _gram(
    x: NDArray[np.float64], y: NDArray[np.float64], kernel: str, width: float
) -> NDArray[np.float64]:
    if kernel == "quantum":
        from qcluster.quantum.kernels import gram_matrix

        return gram_matrix(width * x, width * y).matrix
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * x @ y.T
    return np.asarray(np.exp(-width * np.maximum(square, 0.0)))


def _rows(features: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(FEATURES):
        raise InputError(f"wants shape (rows, {len(FEATURES)}), got {x.shape}", field="features")
    if not np.isfinite(x).all():
        raise InputError("holds a number that is not finite", field="features")
    return x
