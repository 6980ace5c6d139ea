"""The text detector that comes with a package: PP-OCR, by rapidocr."""

import functools
import importlib.metadata
import importlib.util
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from curation.text.detector import Polygons, TextDetector
from datamodules.files import sha256_file

SAME_SHAPE = ("0OoQοо°○〇õñöó", "+十†×xX")  # as rings and crosses are read


@dataclass(frozen=True)
class RapidOCRDetector(TextDetector):
    """PP-OCR's text detector as bundled with rapidocr: small, on the CPU, nothing to download.

    The paper names FAST with T-MARS' settings, whose weights come with no package. These settings are by trial, on 300
    photos, drawn digits, and rendered words of 9 to 12 px on images of 48 to 200 px: doubling small images lifts the
    words' recall from 0.3-0.6 to 0.9; a larger factor adds false boxes, no words. Without the two filters of shape, a
    drawn digit or a round object is taken for a word in 10 to 40 % of the images, with them in 2 % at most; what is
    found on photos is then nearly always writing. Per image and thread: 7 ms at 64 px, 36 ms at 160 px.

    Args:
        side_px: Longest side that the network sees; larger images are shrunk to it.
        threshold: Least score of a box, in (0, 1). At 0.5 photos without text get boxes; at 0.8 small words are lost.
        upscale: Factor by which images are enlarged, as far as `side_px` allows; 1 leaves them.
        min_aspect: Least width / height of a box; one that is taller than wide must be twice as long. A word is
            wider than a single character. 0 keeps all boxes.
        max_share: Largest share of the image that one box may cover: beyond it, a whole object was taken for a word,
            and to blur it would remove the subject. Words that fill 0.4 of the side stay below 0.6. 1 keeps all.
        drop_repeats: Reads a box from border to border and drops a row of one shape, such as the rings (0000) or
            crosses (++++) of a fabric: 26 of 703 printed fabrics had such boxes, none has with it.
    """

    kind: ClassVar[str] = "rapidocr"
    side_px: int = 480
    threshold: float = 0.7
    upscale: float = 2.0
    min_aspect: float = 1.3
    max_share: float = 0.6
    drop_repeats: bool = True

    def __post_init__(self) -> None:
        if self.side_px < 64:
            raise ValueError(f"curation.text.detector.side_px must be at least 64, got {self.side_px}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"curation.text.detector.threshold must be in (0, 1), got {self.threshold}")
        if self.upscale < 1:
            raise ValueError(f"curation.text.detector.upscale must be at least 1, got {self.upscale}")
        if self.min_aspect < 0:
            raise ValueError(f"curation.text.detector.min_aspect must not be negative, got {self.min_aspect}")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"curation.text.detector.max_share must be in (0, 1], got {self.max_share}")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, version, settings and checksum of the network, without loading it. ValueError without rapidocr."""
        model = _bundled_network("det")
        reader = {"reader": {path.name: sha256_file(path) for path in [_bundled_network("rec")]}}
        return {
            "name": f"rapidocr {model.name}",
            "version": importlib.metadata.version("rapidocr"),
            "settings": asdict(self),
            "sha256": sha256_file(model),
            **(reader if self.drop_repeats else {}),
        }

    def prepare(self, rgb: np.ndarray) -> dict[str, Any]:
        """The polygons: this network runs in the workers."""
        return {"polygons_list": self.detect(rgb)}

    def finder(self) -> Callable[[dict[str, Any]], list[Polygons]]:
        """Nothing is left to do."""
        return operator.itemgetter("polygons_list")

    def detect(self, rgb: np.ndarray) -> Polygons:
        """Polygons int32 [4, 2] in pixels of the image, clipped to it, top to bottom."""
        import cv2

        height, width = rgb.shape[:2]
        scale = min(self.upscale, self.side_px / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        seen = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        found = _engine(self.side_px, self.threshold)(seen[..., ::-1], use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return []
        ratio = (width / size[0], height / size[1])
        polygons = [np.asarray(box, np.float64) * ratio for box in found.boxes]
        words = [polygon for polygon in polygons if self._is_word(polygon, height * width)]
        if self.drop_repeats:
            words = [
                word for word in words if not (_crosses(word, height, width) and self._repeats(seen, word / ratio))
            ]
        return [_clipped(word, height, width) for word in words]

    def _repeats(self, seen: np.ndarray, corners: np.ndarray) -> bool:
        """Whether a box reads as one character over and over."""
        read = _engine(self.side_px, self.threshold)(_cut_out(seen, corners)[..., ::-1], use_det=False, use_cls=False,
                                                     use_rec=True)  # fmt: skip
        return bool(read.txts) and is_repetition(read.txts[0])

    def _is_word(self, polygon: np.ndarray, pixels: int) -> bool:
        """Whether a box, corners in order from the top left, is long and small enough for a word."""
        sides = np.linalg.norm(polygon - np.roll(polygon, -1, axis=0), axis=1)
        width, height = (sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2
        long_enough = width >= self.min_aspect * height or height >= 2 * self.min_aspect * width
        return bool(long_enough and width * height <= self.max_share * pixels)


def _clipped(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(np.rint(polygon), 0, (width - 1, height - 1)).astype(np.int32)


def _crosses(polygon: np.ndarray, height: int, width: int) -> bool:
    """Whether a box goes from one border of the image to the opposite one, to a twentieth of the side."""
    x, y = polygon.T
    return bool(np.ptp(x) >= 0.95 * (width - 1) or np.ptp(y) >= 0.95 * (height - 1))


def _cut_out(rgb: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A box, corners [4, 2] in order from the top left, as a lying picture."""
    import cv2

    wide, high = (max(1, round(float(np.linalg.norm(corners[0] - corners[end])))) for end in (1, 3))
    target = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    turn = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    cut = cv2.warpPerspective(rgb, turn, (wide, high), borderMode=cv2.BORDER_REPLICATE)
    return cut if wide >= high else np.ascontiguousarray(np.rot90(cut))


def is_repetition(text: str) -> bool:
    """Whether three quarters of at least three characters are one shape: a ring, a cross, or the same character."""
    shapes = [next((group for group in SAME_SHAPE if one in group), one) for one in text if not one.isspace()]
    return len(shapes) >= 3 and max(map(shapes.count, shapes)) >= 0.75 * len(shapes)


def _bundled_network(part: str) -> Path:
    """The ONNX file of the detector (det) or the reader (rec) inside the installed package; without importing it."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None or importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(
            "curation.text needs rapidocr and onnxruntime, which are not installed: `pip install 'pas-train[text]'`, "
            "or set `curation.text: null` to leave written words out"
        )
    networks = sorted((Path(spec.origin).parent / "models").glob(f"*{part}*.onnx"))
    if not networks:
        raise ValueError(
            f"curation.text: rapidocr {importlib.metadata.version('rapidocr')} bundles no models/*{part}*.onnx; "
            "install another version (3.10.0 has it), or set `curation.text: null` to leave written words out"
        )
    return networks[0]


@functools.lru_cache(maxsize=2)
def _engine(side_px: int, threshold: float) -> Any:
    """The loaded network, once per process: detectors stay plain settings that travel to loader workers."""
    detector, reader = (str(_bundled_network(part)) for part in ("det", "rec"))
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Det.model_path": detector,  # named, so that nothing is ever downloaded
            "Rec.model_path": reader,
            "Global.text_score": 0.0,
            "Det.limit_type": "max",
            "Det.limit_side_len": side_px,
            "Det.box_thresh": threshold,
            "Global.log_level": "critical",  # its notice "no text" is an ordinary outcome here
            # One thread a worker: the loader's processes share the cores. It also makes the session safe to fork.
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
