"""Written words in an image: where they are, how much of it they cover, and the image without them."""

from curation.text.blur import Fill, blur_regions, fill_regions, remove_words, text_area
from curation.text.detector import Polygons, TextDetector
from curation.text.fast import FAST
from curation.text.rapidocr import RapidOCRDetector

__all__ = [
    "FAST", "Fill", "Polygons", "RapidOCRDetector", "TextDetector", "blur_regions", "fill_regions", "remove_words",
    "text_area",
]  # fmt: skip
