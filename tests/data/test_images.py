"""Opening images: every mode right, every fault a BadSample."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.contract.examples import ImageRef
from mmalign.data.images import MAX_BYTES, find_images, image_from_bytes, open_image
from mmalign.errors import BadSample
from tests.support.data_samples import bomb, chunk, encoded, picture, png


def opened(data: bytes) -> np.ndarray:
    image = image_from_bytes(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_formats_keep_their_colours(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    source = Image.new("RGB", (8, 8), (200, 30, 60)) if format == "GIF" else picture()
    difference = np.abs(opened(encoded(source, format, **options)) - np.asarray(source).astype(int))
    assert difference.max() <= (0 if format != "JPEG" else 6)


def test_jpeg_is_decoded_at_full_size_like_plain_pillow(tmp_path: Path) -> None:
    data = encoded(picture(3, (640, 480)), "JPEG", quality=90)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(b"junk" + data + b"junk")
    plain = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert (np.asarray(open_image(ImageRef(str(tmp_path / "a.jpg")))) == plain).all()
    assert (np.asarray(open_image(ImageRef(str(tmp_path / "b.jpg"), 4, len(data)))) == plain).all()


def test_transparency_goes_onto_white() -> None:
    half = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG")
    assert abs(opened(half)[0, 0] - [255, 127, 127]).max() <= 1
    assert (opened(encoded(Image.new("LA", (4, 4), (0, 0)), "PNG")) == 255).all()
    assert (opened(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "WEBP", lossless=True)) == 255).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert opened(encoded(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert opened(encoded(palette, "GIF", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    colour_key = png(2, 1, 8, 2, bytes([0, 1, 2, 3, 9, 9, 9]), chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    assert opened(colour_key).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_deep_grey_is_scaled_not_clipped_and_agrees_with_deep_colour() -> None:
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], ">u2")
    grey = opened(png(6, 1, 16, 0, b"\0" + values.tobytes()))
    colour = opened(png(6, 1, 16, 2, b"\0" + np.repeat(values, 3, axis=1).tobytes()))
    assert grey[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x80, 255]
    assert (grey == colour).all()
    keyed = opened(png(6, 1, 16, 0, b"\0" + values.tobytes(), chunk(b"tRNS", bytes([0x12, 0x34]))))
    assert keyed[0, :, 0].tolist() == [0, 0, 1, 255, 0x80, 255]


def test_one_bit_grey_cmyk_and_palette() -> None:
    assert opened(encoded(Image.new("1", (3, 3), 1), "PNG")).tolist() == [[[255] * 3] * 3] * 3
    assert opened(encoded(Image.new("L", (2, 2), 77), "PNG"))[1, 1].tolist() == [77] * 3
    cmyk = opened(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert abs(cmyk[4, 4] - [255, 0, 0]).max() <= 4
    assert (
        abs(opened(encoded(picture().convert("P"), "PNG")) - np.asarray(picture().convert("P").convert("RGB"))).max()
        == 0
    )


def test_animations_give_their_first_frame() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue", "lime")]
    for format in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (opened(data) == [255, 0, 0]).all(), format


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(picture(1, (32, 16)), format, exif=exif, **options)
    import io

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (opened(data) == np.asarray(expected)).all()
    assert opened(data).shape[:2] == ((32, 16) if orientation > 4 else (16, 32))


def test_broken_metadata_do_not_cost_the_image() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert opened(data).shape == (12, 16, 3)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.jpg", b"", "empty file"),
        ("text.png", b"This is no image.\n", "not a JPEG"),
        ("cut.jpg", encoded(picture(0, (64, 64)), "JPEG")[:-200], "truncated"),
        ("cut.png", encoded(picture(0, (64, 64)), "PNG")[:-30], "truncated"),
        ("cut.webp", encoded(picture(0, (64, 64)), "WEBP")[:-30], ""),
        ("tiff.png", encoded(picture(), "TIFF"), "not a JPEG"),
        ("icon.png", encoded(picture(), "ICO"), "not a JPEG"),
        ("ppm.png", encoded(picture(), "PPM"), "not a JPEG"),
        ("strip.png", encoded(Image.new("L", (1, 20_000)), "PNG"), "aspect"),
        ("zero.png", png(0, 0, 8, 0, b""), ""),
    ],
)
def test_faults_name_the_file_and_the_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadSample) as caught:
        open_image(ImageRef(str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value) and reason in str(caught.value)


def test_missing_files_folders_pipes_and_odd_paths_are_bad_samples(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "short").write_bytes(b"x" * 10)
    refs = [ImageRef(str(tmp_path / "none.png")), ImageRef(str(tmp_path)), ImageRef(str(tmp_path / "pipe.png"))]
    refs += [ImageRef("/dev/zero"), ImageRef("a\0b"), ImageRef(""), ImageRef(str(tmp_path / "short"), 5, 100)]
    refs += [ImageRef(str(tmp_path / "short"), -1), ImageRef(str(tmp_path / "short"), 2**70)]
    for ref in refs:
        with pytest.raises(BadSample):
            open_image(ref)


def test_a_file_over_the_byte_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadSample, match="over the limit"):
        open_image(ImageRef(str(path)))


def test_a_pixel_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    data = bomb()
    assert len(data) < 25_000
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    code = """
import resource, sys, time
from mmalign.data.images import open_image, ImageRef
from mmalign.errors import BadSample
import PIL.Image, PIL.PngImagePlugin
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try: open_image(ImageRef(sys.argv[1]))
except BadSample as error: print(error)
seconds = time.perf_counter() - start
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, seconds)
"""
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    message, figures = out.strip().splitlines()
    kilobytes, seconds = figures.split()
    assert "13000 x 13000" in message
    assert int(kilobytes) < 20_000 and float(seconds) < 0.5
    with pytest.raises(BadSample, match="pixels"):
        image_from_bytes(png(100_000, 100_000, 8, 6, b""), "x")  # past the limit at which Pillow itself raises


def test_only_bad_samples_leave_the_decoder() -> None:
    rng = random.Random(0)
    image = picture(5, (24, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"PNG": {}, "JPEG": {"exif": exif}, "WEBP": {"exif": exif}, "GIF": {}}
    good = 0
    for format, option in options.items():
        seed = encoded(image, format, **option)
        for _ in range(900):
            data = bytearray(seed)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
            try:
                good += image_from_bytes(bytes(data), "mutant").mode == "RGB"
            except BadSample as error:
                assert "mutant" in str(error)
    assert 100 < good < 3500  # the mutants reach the decoders, and many are caught


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    import warnings

    before = list(warnings.filters)
    data = encoded(picture(), "JPEG")
    threads = [threading.Thread(target=lambda: [image_from_bytes(data, "x") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_find_images_sorts_recurses_and_reports(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "sub/c.webp", "sub/.hidden.png", ".git/d.png", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    images, problems = find_images([tmp_path])
    assert [str(path.relative_to(tmp_path)) for path in images] == ["a.jpg", "b.PNG", "odd[1].jpg", "sub/c.webp"]
    assert problems == []
    images, problems = find_images(
        [
            f"{tmp_path}/*.jpg",
            f"{tmp_path}/odd[1].jpg",
            f"{tmp_path}/notes.txt",
            f"{tmp_path}/empty",
            "none.png",
            "*.zzz",
        ]
    )
    assert [path.name for path in images] == ["a.jpg", "odd[1].jpg", "notes.txt"]
    assert [reason.split(" (")[0] for _, reason in problems] == [
        "no image in the folder",
        "no such file or folder",
        "the pattern matches no image",
    ]


def test_opening_is_quick() -> None:
    data = encoded(picture(0, (32, 32)), "JPEG")
    start = time.process_time()
    for _ in range(200):
        image_from_bytes(data, "x")
    assert (time.process_time() - start) / 200 < 0.01
