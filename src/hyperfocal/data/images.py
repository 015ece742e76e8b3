"""Conversion of image files and in-memory images to ``(3, H, W)`` uint8 RGB, upright.

Rules of the conversion:

* EXIF orientation is applied, so the size is that of the image as a viewer displays it.
* Grey, palette, bilevel, CMYK, YCbCr and LAB images are converted to RGB.
* An alpha channel is dropped, as Pillow's ``convert("RGB")`` does.
* 16-bit samples are scaled (``round(v * 255 / 65535)``), not clipped.
* The first frame of an animation is used.

Images are decoded by Pillow. torchvision's decoders gave the same pixels for JPEG files 1.2 to 1.5
times as fast, but they are deprecated and don't support the other cases.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from hyperfocal.files import one_line
from hyperfocal.types import DataError

SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    }
    | {".avif", ".jp2", ".mpo"}
)
"""File name endings (lower case) taken for images when a folder is searched."""

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may take a file for, whatever its name: it opens PostScript, among others, by running
another program on it."""

MAX_PIXELS = 178_956_970
"""Pixels that an image may have; Pillow's own limit against files made to fill the memory."""

_ORIENTATION = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})
_SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})


def limit_pixels(most: int = MAX_PIXELS) -> None:
    """Set the maximum number of pixels of an image file, for this process.

    Pillow warns at half of its limit, with a path of its installation; here only the limit itself
    matters.
    """
    Image.MAX_IMAGE_PIXELS = most // 2  # Pillow refuses twice as many
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Header:
    """Size of an image, from the first bytes of its file.

    Attributes:
        hw: height and width in pixels as displayed, after EXIF rotation.
        stored_hw: height and width as stored.
    """

    hw: tuple[int, int]
    stored_hw: tuple[int, int]


def read_header(path: Path) -> Header:
    """Size of an image, with a check that its file is complete.

    JPEG, PNG, WebP and GIF files are checked by the marker or length at their end. Files that fail
    this check, other formats, and files with 32-bit samples are decoded.

    Raises:
        DataError: missing, unreadable, truncated or too large; names the file.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=_formats()) as image:
            if image.mode in ("I", "F") or not _is_whole(file, image.format):
                _from_pil(image)
            # The base class's method: that of PNG decodes the whole image first.
            orientation = Image.Image.getexif(image).get(_ORIENTATION)
            width, height = image.size
            # Pillow rotates TIFFs itself.
            turned = orientation in _TRANSPOSED and image.format != "TIFF"
            return Header((width, height) if turned else (height, width), (height, width))
    except Exception as error:  # Pillow's decoders raise various exceptions for damaged files
        raise _image_error(path, error) from None


def read_image(path: str | Path) -> Tensor:
    """Decode an image file.

    Returns:
        ``(3, H, W)`` uint8 RGB, upright.

    Raises:
        DataError: missing, unreadable, truncated or too large; names the file.

    Examples:
        >>> read_image("shelf.jpg").shape  # doctest: +SKIP
        torch.Size([3, 480, 640])
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            return _from_pil(image)
    except Exception as error:  # as in read_header
        raise _image_error(path, error) from None


def to_image(value: Image.Image | NDArray[np.generic] | Tensor) -> Tensor:
    """An image in memory as ``(3, H, W)`` uint8 RGB.

    The layout depends on the type, never on the shape:

    * PIL image: any mode, EXIF orientation applied.
    * numpy array: ``(H, W)`` grey, ``(H, W, 1)`` grey, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA.
      OpenCV's arrays are BGR; pass ``array[..., ::-1]``.
    * tensor: ``(H, W)`` grey, ``(1, H, W)`` grey, ``(3, H, W)`` RGB or ``(4, H, W)`` RGBA.

    Arrays and tensors hold uint8 in 0..255, uint16 in 0..65535 (scaled), bool, or floats in
    [0, 1] (scaled). Alpha is dropped.

    Raises:
        DataError: another type, layout or dtype, an empty image, or floats outside [0, 1].

    Examples:
        >>> to_image(np.zeros((4, 6), dtype=np.uint8)).shape
        torch.Size([3, 4, 6])
    """
    if isinstance(value, Image.Image):
        try:
            return _from_pil(value)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"a PIL image could not be decoded ({error})") from None
    if isinstance(value, Tensor):
        return _from_tensor(value.detach().cpu())
    if isinstance(value, np.ndarray):
        layouts = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        if value.ndim == 3 and value.shape[2] in (1, 3, 4):
            planes = np.moveaxis(value, 2, 0)
        elif value.ndim == 2:
            planes = value[None]
        else:
            raise DataError(f"a numpy image must have shape {layouts}, but it is {value.shape}")
        try:
            return _from_tensor(torch.from_numpy(np.ascontiguousarray(planes)))
        except (TypeError, ValueError):
            raise _dtype_error(str(value.dtype)) from None
    raise DataError(
        f"an image must be a path, a PIL image, a numpy array or a tensor, not {type(value)}"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    """The `FORMATS` that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_tensor(planes: Tensor) -> Tensor:
    if planes.ndim == 2:
        planes = planes[None]
    if planes.ndim != 3 or planes.shape[0] not in (1, 3, 4):
        raise DataError(
            "a tensor image must have shape (H, W), (1, H, W), (3, H, W) or (4, H, W), "
            f"but it is {tuple(planes.shape)}"
        )
    if planes.numel() == 0:
        raise DataError(f"an image of shape {tuple(planes.shape)} has no pixels")
    planes = planes[:3].expand(3, -1, -1)
    if planes.dtype == torch.uint8:
        return planes.contiguous()
    if planes.dtype == torch.bool:
        return planes.to(torch.uint8) * 255
    if planes.dtype == torch.uint16:
        return (planes.to(torch.int32) * 255 + 32767).div(65535, rounding_mode="floor").byte()
    if planes.is_floating_point():
        low, high = planes.aminmax()
        # NaN fails both comparisons.
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"a float image must lie in [0, 1], but it spans [{float(low)}, {float(high)}]; "
                "give 0..255 values as uint8"
            )
        return (planes.float() * 255).round().byte()
    raise _dtype_error(str(planes.dtype))


def _from_pil(image: Image.Image) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        return _from_tensor(torch.from_numpy(np.array(image).astype(np.uint16)))
    if image.mode == "I":
        wide = np.array(image)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise DataError("32-bit integer samples beyond 0..65535; save it with 8 or 16 bits")
        return _from_tensor(torch.from_numpy(wide.astype(np.uint16)))
    if image.mode == "F":
        return _from_tensor(torch.from_numpy(np.array(image)))
    if image.mode != "RGB":
        image = image.convert("RGB")
    # np.array copies, because Pillow's array may be read-only.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _is_whole(file: io.BufferedReader, format: str | None) -> bool:
    """Whether the file ends as its format specifies; False for other formats."""
    check = _ENDS.get(format or "")
    if check is None:
        return False
    where = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 4096))
    tail = file.read()
    file.seek(0)
    head = file.read(16)
    file.seek(where)
    return check(head, tail, size)


_ENDS: dict[str, Callable[[bytes, bytes, int], bool]] = {
    "JPEG": lambda head, tail, size: tail.rstrip(b"\0\n").endswith(b"\xff\xd9"),
    # An orientation may also follow the pixels, where only decoding finds it.
    "PNG": lambda head, tail, size: tail.endswith(b"IEND\xaeB`\x82") and b"eXIf" not in tail,
    "WEBP": lambda head, tail, size: int.from_bytes(head[4:8], "little") + 8 <= size,
    "GIF": lambda head, tail, size: tail.rstrip(b"\0").endswith(b";"),
}


def _image_error(path: str | Path, error: Exception) -> DataError:
    place = one_line(path, 400)
    if isinstance(error, DataError):
        return DataError(f"{place}: {error}")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{place}: no such image file")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{place}: a folder, not an image file")
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{place}: not an image, or of an unknown kind")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return DataError(
            f"{place}: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller, or "
            "raise the limit with --data.max-pixels if the file is trusted (hyperfocal predict: "
            "--max-pixels)"
        )
    # An OSError repeats the path in its text.
    reason = getattr(error, "strerror", None) or one_line(error) or type(error).__name__
    return DataError(f"{place}: damaged or unreadable image ({reason})")


def _dtype_error(dtype: str) -> DataError:
    return DataError(
        f"an image of dtype {dtype} is ambiguous; give uint8 (0..255), uint16 (0..65535), bool, "
        "or floats in [0, 1]"
    )
