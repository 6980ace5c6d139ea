"""The backbone as an ONNX graph: `from load import load; model = load(".")`. Needs onnxruntime and numpy.

Elsewhere: input `images`, float32 [batch, 3, S, S], normalised; output `embedding`, float32 [batch, D].
"""

from pathlib import Path

import numpy as np
import onnxruntime


def load(folder):
    return onnxruntime.InferenceSession(str(Path(folder, "backbone.onnx")), providers=["CPUExecutionProvider"])


def features(model, images):
    return {"embedding": model.run(["embedding"], {"images": np.asarray(images)})[0]}
