"""Images of every mode: of 16 bits, of floats, transparent, with a palette."""

import io
import struct
import zlib

import numpy as np
import pytest

from keras_smkd import data
from keras_smkd.data import depths
from keras_smkd.data import files

Image = pytest.importorskip("PIL.Image")

DEEP = np.array(
    [[0, 128, 129, 257, 385], [386, 500, 32767, 65406, 65535]], np.uint16
)
# v / 257, rounded.
SCALED = [[0, 0, 1, 1, 1], [2, 2, 127, 254, 255]]


def content_of(image, **options):
    stream = io.BytesIO()
    image.save(stream, "png", **options)
    return stream.getvalue()


def png(depth, colour_type, values, **chunks):
    """Return a PNG written by hand, of any depth and colour type."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", check)
        )

    values = np.asarray(values, f">u{depth // 8}")
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(name.encode(), c) for name, c in chunks.items())
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_become_eight():
    exact = np.round(DEEP / 257)
    assert exact.tolist() == SCALED
    content = content_of(Image.fromarray(DEEP))
    grey = files.decode(content, (2, 5, 1))
    assert grey[..., 0].tolist() == SCALED
    rgb = files.decode(content, (2, 5, 3))
    rgba = files.decode(content, (2, 5, 4))
    for channel in range(3):
        assert rgb[..., channel].tolist() == SCALED
        assert rgba[..., channel].tolist() == SCALED
    assert (rgba[..., 3] == 255).all()


def test_a_folder_of_deep_images(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(DEEP).save(tmp_path / name / "x.png")
    for channels in (1, 3):
        examples = data.load_folder(
            tmp_path, image_size=(2, 5), channels=channels, verify=True
        )
        for cache in ("memory", "none", tmp_path / f"{channels}.npy"):
            batches = data.PipelineSequence(examples, batch_size=2, cache=cache)
            x = batches[0][0]
            assert x.shape == (2, 2, 5, channels)
            np.testing.assert_allclose(x[..., 0], [DEEP / 65535] * 2, atol=2e-3)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_every_order_of_sixteen_bits(mode):
    image = Image.new(mode, (5, 2))
    for (row, column), value in np.ndenumerate(DEEP):
        image.putpixel((column, row), int(value))
    found = np.asarray(depths.eight_bits(Image, image, 1))
    assert found.tolist() == SCALED


def test_sixteen_bits_held_in_thirty_two():
    # As earlier versions of Pillow open a PNG of 16 bits.
    image = Image.fromarray(DEEP.astype(np.int32))
    assert image.mode == "I"
    image.format = "PNG"
    found = np.asarray(depths.eight_bits(Image, image, 1))
    assert found.tolist() == SCALED


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_is_scaled_or_refused(mode):
    known = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "HSV"}
    known |= {"YCbCr", "I;16", "I;16L", "I;16B", "I;16N"}
    image = Image.new(mode, (2, 2))
    for channels, converted in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        if mode in known:
            found = depths.eight_bits(Image, image, channels)
            assert found.mode == converted
        else:
            with pytest.raises(
                ValueError, match=f"^mode '{mode}' has no range"
            ):
                depths.eight_bits(Image, image, channels)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_file_of_unknown_range_is_named(tmp_path, monkeypatch, mode):
    path = tmp_path / "a" / "x.png"
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "x.png")
    deep = Image.new(mode, (2, 2))
    monkeypatch.setattr(Image, "open", lambda *a, **k: deep)
    with pytest.raises(
        ValueError, match=rf"'{path}', which cannot be decoded: mode '{mode}'"
    ):
        data.load_folder(tmp_path, image_size=(2, 2), verify=True)


def test_only_the_formats_of_the_suffixes_are_opened(tmp_path):
    # A TIFF of floats in PNG's name, past the look at the first bytes.
    path = tmp_path / "x.png"
    Image.new("F", (2, 2), 0.5).save(path, "tiff")
    with pytest.raises(ValueError, match=r"x\.png', which cannot be decoded"):
        files.decode(str(path), (2, 2, 1))


def test_bits_and_grey_of_fewer_than_eight():
    bits = np.array([[False, True]])
    for channels in (1, 3):
        found = files.decode(
            content_of(Image.fromarray(bits)), (1, 2, channels)
        )
        assert found[..., 0].tolist() == [[0, 255]]


def test_colours_of_sixteen_bits_keep_their_upper_byte():
    values = np.array([[[0, 255, 256], [32767, 65535, 511]]])
    found = files.decode(png(16, 2, values), (1, 2, 3))
    assert found.tolist() == [[[0, 0, 1], [127, 255, 1]]]
    found = files.decode(png(16, 6, [[[256, 512, 768, 32768]]]), (1, 1, 4))
    assert found.tolist() == [[[1, 2, 3, 128]]]


def test_transparency():
    colour = Image.fromarray(np.array([[[10, 20, 30, 0]]], np.uint8))
    grey = Image.fromarray(np.array([[[50, 0]]], np.uint8), "LA")
    for image, rgb in ((colour, [10, 20, 30]), (grey, [50, 50, 50])):
        content = content_of(image)
        # The colour that is stored, not one behind it.
        assert files.decode(content, (1, 1, 3)).tolist() == [[rgb]]
        assert files.decode(content, (1, 1, 4)).tolist() == [[[*rgb, 0]]]
    assert files.decode(content_of(grey), (1, 1, 1)).tolist() == [[[50]]]
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30
    assert files.decode(content_of(colour), (1, 1, 1)).tolist() == [[[18]]]
    opaque = content_of(Image.new("RGB", (1, 1), (1, 2, 3)))
    assert files.decode(opaque, (1, 1, 4)).tolist() == [[[1, 2, 3, 255]]]


def test_one_value_of_deep_grey_may_be_transparent():
    content = png(16, 0, DEEP, tRNS=struct.pack(">H", 32767))
    found = files.decode(content, (2, 5, 4))
    assert found[..., 0].tolist() == SCALED
    assert found[..., 3].tolist() == [[255] * 5, [255, 255, 0, 255, 255]]
    assert files.decode(content, (2, 5, 1))[..., 0].tolist() == SCALED


@pytest.mark.parametrize("transparency", [None, 1, b"\xff\x40"])
def test_palettes_are_looked_up(transparency):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([9, 9, 9, 200, 100, 0])
    options = {} if transparency is None else {"transparency": transparency}
    content = content_of(image, **options)
    assert Image.open(io.BytesIO(content)).mode == "P"
    rgb = files.decode(content, (1, 2, 3))
    assert rgb.tolist() == [[[9, 9, 9], [200, 100, 0]]]
    # 0.299 * 200 + 0.587 * 100
    assert files.decode(content, (1, 2, 1)).ravel().tolist() == [9, 118]
    alpha = {None: 255, 1: 0, b"\xff\x40": 0x40}[transparency]
    rgba = files.decode(content, (1, 2, 4))
    assert rgba.tolist() == [[[9, 9, 9, 255], [200, 100, 0, alpha]]]
