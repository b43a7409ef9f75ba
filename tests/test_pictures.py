"""The door through which pictures of the user come in: a picture or one sentence, always."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import make_pipeline
from t2i_xattn.errors import UserError
from t2i_xattn.inversion import invert
from t2i_xattn.pictures import check_pixels, fitted, own_area, read_picture, side_of
from tiny_pipelines import make_sdxl

GREY = Image.fromarray(np.full((6, 8, 3), 128, dtype=np.uint8))


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def empty_png(path: Path, width: int, height: int) -> Path:
    """A PNG file that says how large it is, and has no more than some bytes of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 99)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def corner(picture: Image.Image) -> Any:
    return picture.getpixel((0, 0))


def test_every_mode_comes_as_rgb(tmp_path: Path) -> None:
    for mode, name in (("CMYK", "a.jpg"), ("L", "a.png"), ("1", "b.png"), ("YCbCr", "b.jpg")):
        read = read_picture(saved(tmp_path / name, GREY.convert(mode)))
        assert (read.mode, read.size) == ("RGB", (8, 6))
        assert mode == "1" or all(abs(each - 128) < 8 for each in corner(read))


def test_of_16_bits_the_upper_8_are_taken(tmp_path: Path) -> None:
    array = np.full((6, 8), 128 * 256 + 7, dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        assert corner(read_picture(saved(tmp_path / name, Image.fromarray(array)))) == (128,) * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    picture = clear.convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        picture.putdata([0] * 48)
    assert corner(read_picture(saved(tmp_path / "a.png", picture, **options))) == (255,) * 3


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = GREY.copy()
    picture.paste((255, 255, 255), (0, 0, 4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    read = read_picture(saved(tmp_path / "a.jpg", picture, exif=exif, quality=100))
    assert read.size == (6, 8)
    assert read.getpixel((3, 0)) == (255, 255, 255)
    assert read.getpixel((3, 7)) == (128, 128, 128)


def test_the_first_of_a_phone_s_pictures_is_taken(tmp_path: Path) -> None:
    more = Image.new("RGB", (8, 6))
    path = saved(tmp_path / "a.jpg", GREY, format="MPO", save_all=True, append_images=[more])
    assert all(abs(each - 128) < 8 for each in corner(read_picture(path)))


def not_pictures(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(whole, "PNG")
    files = {"empty": b"", "text": b"a red circle", "cut": whole.getvalue()[:-900]}
    files |= {"eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    gif = saved(folder / "a.gif", GREY, save_all=True, append_images=[Image.new("RGB", (8, 6))])
    floats = saved(folder / "a.tif", Image.fromarray(np.full((6, 8), 0.5, dtype=np.float32)))
    return {
        **{name: (folder / name, "can be read") for name in files},
        "folder": (folder, "there is none"),
        "missing": (folder / "none.png", "there is none"),
        "too long": (folder / ("x" * 5000), "there is none"),
        "zero": (folder / "a\0b", "there is none"),
        "device": (Path("/dev/zero"), "there is none"),
        "animation": (gif, "but the file has 2"),
        "floats": (floats, "8 or 16 bits a colour"),
        "bomb": (
            empty_png(folder / "bomb.png", 50_000, 50_000),
            "100000000 pixels, but came 50000",
        ),
        "larger bomb": (empty_png(folder / "b.png", 2**31 - 1, 2**31 - 1), "at most 100000000"),
    }


def test_what_is_no_picture_is_one_sentence(tmp_path: Path) -> None:
    for name, (path, sentence) in not_pictures(tmp_path).items():
        with pytest.raises(UserError, match=sentence) as told:
            read_picture(path)
        assert "\n" not in str(told.value), name
        assert len(str(told.value)) < 300, name


def test_the_limit_can_be_raised_and_pillow_s_own_is_left(tmp_path: Path) -> None:
    path, before = saved(tmp_path / "a.png", GREY), Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match=r"at most 47 pixels, but came 8 × 6.* with max_pixels=…"):
        read_picture(path, 47)
    assert before == Image.MAX_IMAGE_PIXELS
    assert read_picture(path, 48).size == read_picture(path, None).size == (8, 6)
    check_pixels((10**6, 10**6), None, "", "")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_file_is_a_picture_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]))
    stream = io.BytesIO()
    GREY.save(stream, kind)
    raw = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with suppress(UserError):  # and nothing else
        assert read_picture(path, 10**6).mode == "RGB"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(width=st.integers(1, 500), height=st.integers(1, 500))
def test_a_picture_is_fitted_to_the_model(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height))
    if max(width, height) > 16 * min(width, height):
        with pytest.raises(UserError, match="at most 16 times as long"):
            fitted(PIPE, picture)
        return
    wide, high = fitted(PIPE, picture).size
    assert wide % 8 == high % 8 == 0
    assert 0.5 <= wide * high / 64**2 <= 1.5
    # A side is off by half of a multiple at most.
    assert abs(wide - 64 * (width / height) ** 0.5) <= 4 or wide == 8
    assert abs(high - 64 * (height / width) ** 0.5) <= 4 or high == 8


PIPE = make_pipeline()


def test_the_model_s_size_is_read_off_the_pipeline() -> None:
    assert (own_area(PIPE), side_of(PIPE)) == (64 * 64, 8)
    xl = make_sdxl()
    assert own_area(xl) == (xl.default_sample_size * xl.vae_scale_factor) ** 2
    assert fitted(PIPE, GREY, (16, 24)).size == (16, 24)
    same = Image.new("RGB", (64, 64))
    assert fitted(PIPE, same) is same


def test_invert_takes_paths_as_pictures(tmp_path: Path) -> None:
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    path = saved(tmp_path / "a.png", picture)
    expected = invert(PIPE, picture, "red", num_inference_steps=1).trajectory
    for given_as in (path, str(path), [path], [str(path)]):
        found = invert(PIPE, given_as, "red", num_inference_steps=1).trajectory
        assert (found == expected).all()


@pytest.mark.parametrize(
    ("images", "prompts", "sentence"),
    [
        ("a.png", "red", "a picture file at 'a.png', but there is none"),
        (["a.png", GREY], ["red", "blue"], "a picture file at 'a.png'"),
        (b"a.png", "red", "pictures, one or a list of them, but came bytes"),
        (3, "red", "but came int"),
        (None, "red", "but came NoneType"),
        ([None], "red", "paths of picture files, but came NoneType"),
        (np.zeros((64, 64, 3)), "red", "paths of picture files, but came ndarray"),
        (GREY, None, "prompts, one or a list of them, but came NoneType"),
        (GREY, [3], "prompts as text, but came int"),
        (Image.new("RGB", (8000, 8000)), "red", "at most 4194304 pixels, but came 8000 × 8000"),
        ([GREY, Image.new("RGB", (8, 8))], ["a", "b"], "of one size, but came 8 × 6, 8 × 8"),
    ],
)
def test_invert_refuses_what_is_no_picture(images: Any, prompts: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        invert(PIPE, images, prompts)


def test_the_limit_of_invert_can_be_raised() -> None:
    picture = Image.new("RGB", (64, 64))
    with pytest.raises(UserError, match="raise the limit with max_pixels=…"):
        invert(PIPE, picture, "red", num_inference_steps=1, max_pixels=4095)
    for limit in (4096, None):
        invert(PIPE, picture, "red", num_inference_steps=1, max_pixels=limit)


@pytest.mark.parametrize("method", ["direct", "null-text"])
def test_invert_shows_its_progress_as_the_pipeline_does(
    method: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, picture = make_pipeline(), Image.new("RGB", (64, 64))
    options: dict[str, Any] = {"num_inference_steps": 2, "method": method, "iterations": 1}
    invert(pipe, picture, "red", **options)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False, desc="mine")
    invert(pipe, picture, "red", **options)
    shown = capsys.readouterr().err
    assert "inversion: " in shown
    assert ("null-text inversion: " in shown) == (method == "null-text")
