"""Written words in an image: where they are, how much of it they cover, and the image without them."""

from curation.text.blur import blur_regions, text_area
from curation.text.detector import TextDetector
from curation.text.rapidocr import RapidOCRDetector

__all__ = ["RapidOCRDetector", "TextDetector", "blur_regions", "text_area"]
