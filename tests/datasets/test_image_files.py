"""One way to decode an image: orientation, transparency, bits, modes and size, in the loader and on the live page alike."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from causalvae_pyro.datasets import FolderDataset
from causalvae_pyro.datasets.image_files import MODES, decode_image
from causalvae_pyro.explore import read_image


def photograph(orientation):
    """Bright on top as stored, with what the camera says of how it was held."""
    image = Image.new("RGB", (32, 24), "black")
    image.paste("white", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image, {"exif": exif, "quality": 95}


def transparent(mode):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((200, 100, 0, 255), (0, 0, 8, 16))
    return image.convert(mode), {}


def palette():
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 0])
    return image, {}


SOURCES = {
    **{f"turned {orientation}": (photograph(orientation), "jpg") for orientation in range(1, 9)},
    "RGBA": (transparent("RGBA"), "png"),
    "LA": (transparent("LA"), "png"),
    "transparent palette": (transparent("P"), "gif"),
    "palette": (palette(), "png"),
    "black and white": ((Image.new("1", (16, 16), 1), {}), "png"),
    "CMYK": ((Image.new("CMYK", (16, 16), (0, 128, 255, 0)), {}), "jpg"),
    "16 bit": ((Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257), {}), "png"),
    "float": ((Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), {}), "tiff"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SOURCES)
def test_the_loader_and_the_page_read_alike(tmp_path, name, mode):
    (image, options), suffix = SOURCES[name]
    for i in range(2):
        image.save(tmp_path / f"{i}.{suffix}", **options)
    (tmp_path / "labels.csv").write_text(f"file,a\n0.{suffix},1\n1.{suffix},2\n")
    data = FolderDataset(tmp_path, tmp_path / "labels.csv", {"a": []}, "all", size=16, mode=mode)
    path = tmp_path / f"0.{suffix}"
    for source in (path, path.read_bytes()):
        torch.testing.assert_close(data[0][0], read_image(source, (MODES[mode], 16, 16)), rtol=0, atol=0)
    # As it is, in the mode that it has.
    own = FolderDataset(tmp_path, tmp_path / "labels.csv", {"a": []}, "all", size=16)
    assert torch.equal(own.images[0], decode_image(path, "images", size=(16, 16)))


@pytest.mark.parametrize(
    ("orientation", "bright"),
    [(1, "top"), (2, "top"), (3, "bottom"), (4, "bottom"), (5, "left"), (6, "right"), (7, "right"), (8, "left")],
)
def test_photographs_are_upright(tmp_path, orientation, bright):
    image, options = photograph(orientation)
    image.save(tmp_path / "a.jpg", **options)
    pixels = decode_image(tmp_path / "a.jpg", "images").float().mean(0) / 255
    assert pixels.shape == ((24, 32) if bright in ("top", "bottom") else (32, 24))
    ends = {"top": pixels[:4], "bottom": pixels[-4:], "left": pixels[:, :4], "right": pixels[:, -4:]}
    assert {end for end, values in ends.items() if values.mean() > 0.9} == {bright}


def decode(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return decode_image(buffer.getvalue(), "images", **options)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode):
    image, _ = transparent(mode)
    assert decode(image).shape == (4, 16, 16)
    assert decode(image, mode="RGB")[:, :, 8:].unique().tolist() == [255]
    assert decode(image, mode="L")[:, :, 8:].unique().tolist() == [255]
    assert decode(image, mode="RGB", size=(8, 8))[:, :, -1].unique().tolist() == [255]
    opaque = torch.tensor([200, 100, 0]) if mode == "RGBA" else torch.full((3,), 118)
    assert decode(image, mode="RGB")[:, 0, 0].tolist() == opaque.tolist()


def test_more_bits_are_scaled_to_eight():
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    expected = torch.from_numpy(np.rint(values / 257)).byte()
    for kind in ("png", "tiff"):
        assert torch.equal(decode(Image.fromarray(values), kind)[0], expected)
    fractions = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert torch.equal(decode(Image.fromarray(fractions), "tiff")[0].flatten(), torch.arange(256).byte())


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    # Nearly twice as many make Pillow warn, more make it refuse.
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decodes"))
    for limit in (399, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        message = rf"a\.png has more than {limit} pixels, which is not safe to decode; make it smaller first$"
        for read in (lambda: decode_image(path, "images"), lambda: read_image(path, (3, 16, 16))):
            with pytest.raises(ValueError, match=message):
                read()


def test_a_few_images_are_decoded_at_a_time(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier, BoundedSemaphore

    from causalvae_pyro.datasets import image_files

    # Two have to meet, or the barrier breaks; of three one would be too many.
    busy, met, alone, original = BoundedSemaphore(2), Barrier(2, timeout=60), [], image_files._decode

    def watched(*arguments):
        alone.append(busy.acquire(blocking=False))
        try:
            met.wait()
            return original(*arguments)
        finally:
            busy.release()

    monkeypatch.setattr(image_files, "_decode", watched)
    monkeypatch.setattr(image_files, "_DECODERS", BoundedSemaphore(2))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(Image.new("RGB", (200, 200))), range(32)))
    assert alone == [True] * 32
