from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from hyperfocal.data.images import read_header, read_image, to_image
from hyperfocal.types import DataError


def as_array(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_the_rgb_that_pillow_shows(mode, tmp_path, noise_image):
    image = Image.fromarray(noise_image(7, 5)).convert("RGBA" if mode == "PA" else "RGB")
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    np.testing.assert_array_equal(as_array(to_image(image)), np.array(image.convert("RGB")))
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        image.save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as saved:
            expected = np.array(saved.convert("RGB"))
        np.testing.assert_array_equal(as_array(read_image(tmp_path / "a.png")), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_gives_pillows_pixels(mode, progressive, tmp_path, noise_image):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise_image(61, 83)).convert(mode).save(path, progressive=progressive)
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(as_array(read_image(path)), expected)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_size_and_pixels(ending, orientation, tmp_path, noise_image):
    path = tmp_path / f"a.{ending}"
    image = Image.fromarray(noise_image(10, 20))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    hw = (20, 10) if orientation >= 5 else (10, 20)
    assert read_header(path).hw == hw
    found = as_array(read_image(path))
    assert found.shape[:2] == hw
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    np.testing.assert_array_equal(found, np.array(upright))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    samples = np.array([[0, 128, 129, 257, 40_000, 65_407, 65_535]], dtype=np.uint16)
    expected = np.round(samples / 65535 * 255).astype(np.uint8)
    for ending in ("png", "tif"):
        Image.fromarray(samples).save(tmp_path / f"a.{ending}")
        found = as_array(read_image(tmp_path / f"a.{ending}"))
        for channel in range(3):
            np.testing.assert_array_equal(found[..., channel], expected)
    wide = Image.fromarray(samples.astype(np.int32))
    np.testing.assert_array_equal(as_array(to_image(wide))[..., 0], expected)
    np.testing.assert_array_equal(as_array(to_image(samples))[..., 0], expected)
    with pytest.raises(DataError, match=r"beyond 0\.\.65535"):
        to_image(Image.fromarray(samples.astype(np.int32) * 2))
    Image.fromarray(samples.astype(np.int32) * 2).save(tmp_path / "b.tif")
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=r"b\.tif: 32-bit integer samples beyond"):
            read(tmp_path / "b.tif")


@pytest.mark.parametrize("hw", [(1, 1), (1, 300), (300, 1), (2, 20_000), (20_000, 2)])
def test_extreme_sizes(hw, tmp_path):
    for ending in ("png", "jpg"):
        path = tmp_path / f"a.{ending}"
        Image.new("RGB", hw[::-1], (10, 20, 30)).save(path)
        assert read_header(path).hw == hw
        assert read_image(path).shape == (3, *hw)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_files_are_recognised(ending, tmp_path, noise_image):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise_image(120, 90)).save(path)
    assert read_header(path).hw == (120, 90)
    whole = path.read_bytes()
    for part in (0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match=r"a\.\w+: damaged or unreadable"):
            read_header(path)
        with pytest.raises(DataError, match=r"a\.\w+: damaged or unreadable"):
            read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path, noise_image):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise_image(30, 40)).save(path)
    path.write_bytes(path.read_bytes() + b"made by a camera that appends notes")
    assert read_header(path).hw == (30, 40)
    assert read_image(path).shape == (3, 30, 40)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name, what in (
        ("text.jpg", "not an image"),
        ("empty.png", "not an image"),
        ("folder.png", "a folder"),
        ("absent.png", "no such image file"),
    ):
        for read in (read_header, read_image):
            with pytest.raises(DataError, match=f"{name}: {what}"):
                read(tmp_path / name)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="more than 2,000 pixels"):
            read(tmp_path / "a.png")


def test_arrays_and_tensors(noise_image):
    rgb = noise_image(6, 9)
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    alpha = np.concatenate([rgb, rgb[..., :1]], axis=2)
    for same in (
        rgb,
        alpha,
        rgb[..., ::-1][..., ::-1],
        rgb.astype(np.uint16) * 257,
        rgb / 255,
        (rgb / 255).astype(np.float32),
        expected,
        expected.float() / 255,
        expected.double() / 255,
        torch.from_numpy(alpha).permute(2, 0, 1),
    ):
        assert torch.equal(to_image(same), expected)
    grey = rgb[..., 0]
    for same in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert torch.equal(to_image(same), torch.from_numpy(grey)[None].expand(3, -1, -1))
    assert torch.equal(to_image(grey > 100)[0], torch.from_numpy((grey > 100) * np.uint8(255)))


def owned_from_numpy(from_numpy):
    """Torch warns only once per process that writing to read-only memory is undefined."""

    def convert(array):
        assert array.flags.writeable
        return from_numpy(array)

    return convert


def test_a_result_does_not_share_memory_with_a_file_buffer(tmp_path, noise_image, monkeypatch):
    pixels = noise_image(4, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = Image.open(tmp_path / "a.png")
    monkeypatch.setattr(torch, "from_numpy", owned_from_numpy(torch.from_numpy))
    for image in (read_image(tmp_path / "a.png"), to_image(decoded), to_image(decoded)):
        assert np.array_equal(as_array(image), pixels)
        image += 1
        assert np.array_equal(as_array(image), pixels + 1)
    assert np.array_equal(np.array(decoded), pixels)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.zeros((3, 5, 7), np.uint8), "numpy image must have shape"),
        (np.zeros((2, 5, 7, 3), np.uint8), "numpy image must have shape"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), "tensor image must have shape"),
        (torch.zeros(2, 3, 5, 7), "tensor image must have shape"),
        (torch.zeros(3, 0, 7), "no pixels"),
        (np.zeros((4, 5, 3), np.int64), "int64 is ambiguous"),
        (np.zeros((4, 5), np.complex64), "ambiguous"),
        (np.full((4, 5), "a"), "ambiguous"),
        (torch.zeros(3, 4, 5, dtype=torch.int32), "int32 is ambiguous"),
        (torch.full((3, 4, 5), 255.0), r"must lie in \[0, 1\], but it spans \[255.0, 255.0\]"),
        (torch.full((3, 4, 5), float("nan")), r"must lie in \[0, 1\]"),
        ("a.jpg", "must be a path, a PIL image"),
        (None, "must be a path, a PIL image"),
    ],
)
def test_ambiguous_images_are_errors(value, what):
    with pytest.raises(DataError, match=what):
        to_image(value)


def test_a_truncated_pil_image_is_a_data_error(noise_image):
    buffer = io.BytesIO()
    Image.fromarray(noise_image(50, 50)).save(buffer, "PNG")
    half = Image.open(io.BytesIO(buffer.getvalue()[:100]))
    with pytest.raises(DataError, match="could not be decoded"):
        to_image(half)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif"])
def test_a_header_is_read_without_decoding(ending, tmp_path, noise_image, monkeypatch):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise_image(60, 90)).save(path)
    for plugin in (JpegImageFile, PngImageFile, WebPImageFile, GifImageFile):
        monkeypatch.setattr(plugin, "load", lambda self: pytest.fail("decoded"))
    assert read_header(path).hw == (60, 90)


def test_an_orientation_after_the_pixels_of_a_png_counts(tmp_path, noise_image):
    path = tmp_path / "a.png"
    Image.fromarray(noise_image(10, 20)).save(path)
    data = path.read_bytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert read_header(path).hw == (20, 10)
    assert read_image(path).shape == (3, 20, 10)
