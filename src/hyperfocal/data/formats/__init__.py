"""Annotation formats: readers of files, which return annotations as written, before any check."""

from hyperfocal.data.formats.base import AnnotationFormat, Row, raw_from_rows
from hyperfocal.data.formats.raw import RawAnnotations, RawImage, SplitName

__all__ = ["AnnotationFormat", "RawAnnotations", "RawImage", "Row", "SplitName", "raw_from_rows"]
