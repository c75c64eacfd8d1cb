import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from stillwatch.errors import ImageError, ImageTooLargeError
from stillwatch.geometry import fitted
from stillwatch.images.decode import (
    DecodedImage,
    decode_image,
    peak_of_16_bit,
    read_image,
    read_shape,
    resize_image,
    shape_of,
    white_level_of,
)

ORIENTATION = 274


def noise(*shape: int, high: int = 256, dtype: type = np.uint8) -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encoded_16_bit(samples: NDArray[np.generic], suffix: str) -> bytes:
    """RGB(A) order in, as OpenCV writes it."""
    order = [2, 1, 0, 3][: samples.shape[2]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(samples[..., order]))
    assert done
    return data.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def decode(data: bytes, white_level: int | None = None) -> DecodedImage:
    decoded = decode_image(data, name="part.png", white_level=white_level)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (decoded.height, decoded.width, 3)
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    return decoded


def refusal(data: bytes, **options: float) -> str:
    """The error's text, which must be one sentence that names the file."""
    with pytest.raises(ImageError) as caught:
        decode_image(data, name="lot7/part.png", **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith("lot7/part.png: ")
    assert text.endswith(".")
    assert ";" in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_keep_every_pixel(kind: str, mode: str) -> None:
    samples = noise(30, 40) if mode == "L" else noise(30, 40, 3)
    decoded = decode(encoded(Image.fromarray(samples), kind))
    expected = samples if mode == "RGB" else np.stack([samples] * 3, axis=2)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert (decoded.width, decoded.height, decoded.mode) == (40, 30, mode)
    assert decoded.peak == samples.max()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    samples = noise(30, 40, 3)
    data = encoded(Image.fromarray(samples), "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(data).pixels, samples)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(mode: str) -> None:
    image = Image.fromarray(noise(4, 4, 3)).resize((40, 30)).convert(mode)
    decoded = decode(encoded(image, "JPEG", quality=95))
    assert decoded.mode == mode
    difference = decoded.pixels.astype(int) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_the_white_level(kind: str) -> None:
    samples = np.array([[0, 1, 2048], [4095, 4094, 16]], np.uint16)
    decoded = decode(encoded(Image.fromarray(samples), kind), white_level=4095)
    assert decoded.pixels[..., 0].tolist() == [[0, 0, 128], [255, 255, 1]]
    assert (decoded.mode, decoded.peak) == ("I;16", 4095)


def test_16_bit_without_a_white_level_takes_its_own_bit_depth() -> None:
    samples = np.array([[0, 1000]], np.uint16)
    assert decode(encoded(Image.fromarray(samples), "PNG")).pixels[0, 1, 0] == 249


def test_samples_above_the_white_level_are_white() -> None:
    samples = np.array([[0, 1000, 5000]], np.uint16)
    pixels = decode(encoded(Image.fromarray(samples), "PNG"), white_level=1000).pixels
    assert pixels[0, :, 0].tolist() == [0, 255, 255]


def test_the_white_level_leaves_8_bit_images_alone() -> None:
    samples = noise(5, 5)
    pixels = decode(encoded(Image.fromarray(samples), "PNG"), white_level=4095).pixels
    np.testing.assert_array_equal(pixels[..., 0], samples)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB;16"), (4, "RGBA;16")])
def test_16_bit_colour_keeps_its_low_byte(suffix: str, channels: int, mode: str) -> None:
    samples = noise(20, 30, channels, high=1024, dtype=np.uint16)
    decoded = decode(encoded_16_bit(samples, suffix), white_level=1023)
    expected = np.rint(samples[..., :3] * (255 / 1023))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert (decoded.mode, decoded.peak) == (mode, samples[..., :3].max())


def test_16_bit_grey_with_alpha() -> None:
    grey_alpha = noise(4, 5, 2, high=65536, dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey_alpha)
    decoded = decode(png(5, 4, 16, 4, rows), white_level=65535)
    expected = np.rint(grey_alpha[..., 0] * (255 / 65535))
    np.testing.assert_array_equal(decoded.pixels[..., 1], expected)
    assert decoded.mode == "LA;16"


def test_big_endian_16_bit_tiff() -> None:
    samples = noise(6, 7, high=65536, dtype=np.uint16)
    image = Image.frombytes("I;16B", (7, 6), samples.astype(">u2").tobytes())
    decoded = decode(encoded(image, "TIFF"), white_level=65535)
    np.testing.assert_array_equal(decoded.pixels[..., 0], np.rint(samples * (255 / 65535)))
    assert decoded.mode == "I;16"


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_spans_black_to_white(depth: int) -> None:
    rows = bytes([0, 0x00]) + bytes([0, 0xFF])
    pixels = decode(png(8 // depth, 2, depth, 0, rows)).pixels
    assert pixels[0].max() == 0
    assert pixels[1].min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_not_blended(kind: str, mode: str) -> None:
    samples = noise(9, 8, len(mode))
    samples[0] = 0 if mode == "LA" else [200, 100, 50, 0]
    decoded = decode(encoded(Image.fromarray(samples), kind))
    expected = samples[..., :3] if mode == "RGBA" else np.stack([samples[..., 0]] * 3, axis=2)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.mode == mode


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_palette(kind: str) -> None:
    image = Image.fromarray(noise(10, 10, 3)).quantize(16)
    decoded = decode(encoded(image, kind))
    np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
    assert decoded.mode == "P"


def test_palette_with_transparency_keeps_its_colours_and_warns_of_nothing() -> None:
    image = Image.fromarray(noise(10, 10, 3)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = encoded(image, "PNG", transparency=bytes([0, 100] * 8))
    np.testing.assert_array_equal(decode(data).pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode(encoded(image, kind))
    assert decoded.mode == "CMYK"
    assert np.abs(decoded.pixels.astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    "sizes", [[(5, 4), (50, 40)], [(50, 40), (5, 4)], [(5, 4)] * 3 + [(50, 40)]]
)
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_the_largest_page_of_a_tiff(
    tmp_path: Path, sizes: list[tuple[int, int]], mode: str
) -> None:
    pages = [Image.new(mode, size, max(size)) for size in sizes]  # type: ignore[arg-type]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    decoded = decode(data, white_level=255)
    assert (decoded.width, decoded.height, decoded.peak) == (50, 40, 50)
    assert decoded.pages == len(sizes)
    (tmp_path / "part").write_bytes(data)
    assert read_shape(tmp_path / "part") == (40, 50)


def test_the_largest_page_with_16_bit_colour() -> None:
    pages = [np.full((4, 5, 3), 300, np.uint16), np.full((40, 50, 3), 700, np.uint16)]
    done, data = cv2.imencodemulti(".tiff", pages)
    assert done
    decoded = decode(data.tobytes(), white_level=700)
    assert (decoded.width, decoded.peak, decoded.pixels.min()) == (50, 700, 255)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_several_pages_of_one_size(kind: str) -> None:
    pages = [Image.new("L", (5, 4), value) for value in (10, 200)]
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    assert "has 2 pages, several of them of 5×4 pixels" in refusal(data)


def tiff(samples: NDArray[np.generic], photometric: int, extra: tuple[int, ...] = ()) -> bytes:
    """An uncompressed little-endian TIFF of (H, W) or (H, W, channels)."""
    height, width, *rest = samples.shape
    channels = rest[0] if rest else 1
    bits = samples.dtype.itemsize * 8
    lists = {258: (bits,) * channels, 338: extra} if extra else {258: (bits,) * channels}
    single = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height}
    single |= {273: 0, 279: samples.nbytes}
    behind = 8 + 2 + 12 * (len(single) + len(lists)) + 4
    entries, values = {}, b""
    for tag, numbers in lists.items():
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        place = struct.pack("<I", behind + len(values)) if len(packed) > 4 else packed
        entries[tag] = struct.pack("<HHI", tag, 3, len(numbers)) + place.ljust(4, b"\0")
        values += packed if len(packed) > 4 else b""
    single[273] = behind + len(values)
    entries |= {tag: struct.pack("<HHII", tag, 4, 1, number) for tag, number in single.items()}
    directory = b"".join(entries[tag] for tag in sorted(entries))
    start = b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)
    return start + values + samples.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_where_white_is_zero(dtype: type) -> None:
    samples = np.array([[0, 10], [np.iinfo(dtype).max, 7]], dtype)
    pixels = decode(tiff(samples, 0), white_level=65535).pixels[..., 0]
    if dtype == np.uint8:
        assert pixels.tolist() == [[255, 245], [0, 248]]
    else:
        assert pixels.tolist() == [[255, 255], [0, 255]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "photometric", "extra"),
    [(2, 1, (0,)), (5, 2, (0, 0)), (6, 2, (2, 0, 0)), (5, 1, (0, 0, 0, 0)), (3, 1, (0, 0))],
)
def test_channels_that_are_neither_colour_nor_alpha(
    dtype: type, channels: int, photometric: int, extra: tuple[int, ...]
) -> None:
    text = refusal(tiff(np.ones((4, 5, channels), dtype), photometric, extra))
    assert f"has {channels} channels of {np.dtype(dtype).itemsize * 8} bits" in text


@pytest.mark.parametrize("kind", ["text", "compressed text", "colour profile"])
def test_a_png_with_long_metadata_is_read(kind: str) -> None:
    long = PngImagePlugin.PngInfo()
    long.add_text("note", "a" * 3_000_000, zip=kind == "compressed text")
    options = {"icc_profile": bytes(3_000_000)} if kind == "colour profile" else {"pnginfo": long}
    assert decode(encoded(Image.new("L", (5, 4), 9), "PNG", **options)).pixels.max() == 9


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    image = Image.fromarray(noise(3, 5, 3)).resize((40, 24), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(image, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as reopened:
        expected = np.asarray(ImageOps.exif_transpose(reopened))
    np.testing.assert_array_equal(decode(data).pixels, expected)
    assert decode(data).width == (40 if orientation < 5 else 24)
    (tmp_path / "part").write_bytes(data)
    assert read_shape(tmp_path / "part") == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
def test_exif_orientation_of_16_bit_colour(tmp_path: Path, orientation: int, place: str) -> None:
    samples = noise(3, 5, 3, dtype=np.uint16)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain = encoded_16_bit(samples, ".png")
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    start = 33 if place == "before the pixels" else len(plain) - 12
    data = plain[:start] + chunk + plain[start:]
    pixels = decode(data, white_level=255).pixels
    image = Image.fromarray(samples.astype(np.uint8))
    image.getexif()[ORIENTATION] = orientation
    np.testing.assert_array_equal(pixels, np.asarray(ImageOps.exif_transpose(image)))
    (tmp_path / "part.png").write_bytes(data)
    assert read_shape(tmp_path / "part.png") == pixels.shape[:2]


def test_the_shape_is_read_from_the_header_and_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for kind in ("PNG", "JPEG", "TIFF"):
        data = encoded(Image.fromarray(noise(10, 20)), kind, exif=exif)
        assert shape_of(data, name="a") == (20, 10)
    plain = encoded(Image.fromarray(noise(10, 20)), "PNG")
    assert shape_of(plain, name="a") == (10, 20)
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert shape_of(plain[:-12] + chunk + plain[-12:], name="a") == (20, 10)
    without_pixels = png(9_600, 9_600, 8, 2, b"")
    assert shape_of(without_pixels, name="a") == (9_600, 9_600)


def test_damaged_exif_is_passed_by_in_silence() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(noise(10, 20))
    data = encoded(image, "JPEG", exif=exif.tobytes()[:-8])
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).close()
    assert decode(data).width == 20


def test_nothing_warns_in_threads_either() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.fromarray(noise(10, 20)), "JPEG", exif=exif.tobytes()[:-8])
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        assert len(list(pool.map(decode, [data] * 40))) == 40
    assert caught == []


def test_an_empty_file() -> None:
    assert "empty" in refusal(b"")


@pytest.mark.parametrize("data", [b"x", b"Dear colleague,\nhere are the images.\n", b"GIF89a" * 9])
def test_what_only_calls_itself_png(data: bytes) -> None:
    assert "not a PNG, JPEG, BMP or TIFF" in refusal(data)


def test_a_header_and_nothing_else() -> None:
    for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\0", b"MM\0*"):
        assert "damaged or cut short" in refusal(start)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(60, 80, 3)), kind)
    assert "damaged or cut short" in refusal(data[: int(share * len(data))])


def test_a_png_without_its_end() -> None:
    data = encoded(Image.fromarray(noise(12, 12)), "PNG")
    assert "damaged or cut short" in refusal(data[:-12])


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_png_is_noticed(position: float, bit: int) -> None:
    data = bytearray(encoded(Image.fromarray(noise(12, 12)), "PNG"))
    data[int(position * (len(data) - 12))] ^= 1 << bit  # the last 12 hold nothing but the end
    refusal(bytes(data))


@given(data=st.binary(max_size=200), start=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0"]))
def test_garbage_never_raises_anything_else(data: bytes, start: bytes) -> None:
    refusal(start + data)


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    bomb = png(30_000, 30_000, 8, 2, b"")  # decoding it would say: cut short
    text = refusal(bomb)
    assert "30000×30000" in text
    assert "images.max_megapixels" in text


def test_the_size_limit_is_the_callers() -> None:
    data = encoded(Image.fromarray(noise(100, 100)), "BMP")
    assert decode_image(data, name="a", max_megapixels=0.01).width == 100
    assert "megapixels" in refusal(data, max_megapixels=0.0099)


def test_large_images_within_the_limit_warn_of_nothing() -> None:
    wide = png(9_600, 9_600, 1, 0, (b"\0" + bytes(1200)) * 9_600)
    assert decode_image(wide, name="large.png").pixels.shape == (9_600, 9_600, 3)


@pytest.mark.parametrize(
    "samples", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), -3, np.int32)]
)
def test_samples_that_are_no_levels(samples: NDArray[np.generic]) -> None:
    assert "0 to 65535" in refusal(encoded(Image.fromarray(samples), "TIFF"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png", fitted([(8, 8)], 8), white_level=None)
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read"):
        read_shape(tmp_path / "gone.png")


def test_reading_decodes_and_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    Image.new("RGB", (50, 20), (10, 20, 30)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", fitted([(40, 100)], 40), white_level=None)
    assert pixels.shape == (16, 40, 3)
    assert (pixels == [10, 20, 30]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_the_shape_is_in_the_header(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.fromarray(noise(60, 90, 3)), kind)
    path = tmp_path / "part"
    path.write_bytes(data)
    assert read_shape(path) == decode(data).pixels.shape[:2] == (60, 90)
    path.write_bytes(data[:1000])
    assert read_shape(path) == (60, 90)
    with pytest.raises(ImageTooLargeError, match="90×60"):
        read_shape(path, max_megapixels=0.005)


def test_resizing_is_antialiased() -> None:
    checkered = np.zeros((256, 256, 3), np.uint8)
    checkered[::2, ::2] = checkered[1::2, 1::2] = 255
    small = resize_image(checkered, 32, 32).astype(int)
    assert np.abs(small - 127.5).max() < 6


def test_resizing_to_the_same_size_changes_nothing() -> None:
    pixels = noise(32, 32, 3)
    np.testing.assert_array_equal(resize_image(pixels, 32, 32), pixels)


@pytest.mark.parametrize(
    ("peak", "level"),
    [(0, 255), (255, 255), (256, 1023), (1024, 4095), (4096, 16383), (16384, 65535)],
)
def test_white_levels(peak: int, level: int) -> None:
    assert white_level_of(peak) == level


def test_peak_of_16_bit_images_only(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 5)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[7, 900]], np.uint16)).save(tmp_path / "grey.tif")
    (tmp_path / "colour.png").write_bytes(
        encoded_16_bit(np.full((3, 3, 3), 777, np.uint16), ".png")
    )
    Image.fromarray(noise(5, 5)).save(tmp_path / "8.jpg")
    names = ("8.png", "8.jpg", "grey.tif", "colour.png")
    assert [peak_of_16_bit(tmp_path / name) for name in names] == [None, None, 900, 777]
