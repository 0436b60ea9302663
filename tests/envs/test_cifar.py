"""CIFAR-10's binary files, written here in a small size with known pixels."""

import numpy as np
import pytest

from envs import cifar

RECORDS = 4


def label(file, record):
    return (3 * file + record) % 10


def pixel(file, record, plane, row, column):
    return (7 * file + 50 * record + 80 * plane + 3 * row + column) % 256


@pytest.fixture
def directory(tmp_path):
    """Six files, written byte by byte as the format says."""
    for file, name in enumerate((*cifar.TRAINING, *cifar.TEST)):
        content = bytearray()
        for record in range(RECORDS):
            content.append(label(file, record))
            for plane in range(3):
                for row in range(32):
                    for column in range(32):
                        content.append(pixel(file, record, plane, row, column))
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_constants_are_those_of_the_format():
    assert cifar.RECORDS * cifar._RECORD_BYTES == 30_730_000
    assert tuple(f"data_batch_{n}.bin" for n in (1, 2, 3, 4, 5)) == cifar.TRAINING
    assert cifar.TEST == ("test_batch.bin",)


def test_every_pixel_and_label_is_where_the_format_has_it(directory):
    training, test = cifar.read(directory, RECORDS)
    assert training.images.shape == (5 * RECORDS, 3, 32, 32)
    assert test.images.shape == (RECORDS, 3, 32, 32)
    assert training.images.dtype == test.images.dtype == np.uint8
    for images, files in ((training, range(5)), (test, [5])):
        expected = [(file, record) for file in files for record in range(RECORDS)]
        assert images.labels.tolist() == [label(*one) for one in expected]
        for image, (file, record) in zip(images.images, expected, strict=True):
            for plane, row, column in ((0, 0, 0), (0, 0, 31), (1, 5, 9), (2, 31, 0), (2, 31, 31)):
                assert image[plane, row, column] == pixel(file, record, plane, row, column)


def test_batches_are_images_with_their_labels(directory):
    training, _ = cifar.read(directory, RECORDS)
    known = {image.tobytes(): one for image, one in zip(*vars(training).values(), strict=True)}
    images, labels = training.batch(np.random.default_rng(0), 300)
    assert (images.shape, images.dtype) == ((300, 3, 32, 32), np.uint8)
    assert [known[image.tobytes()] for image in images] == labels.tolist()
    assert len({image.tobytes() for image in images}) == 5 * RECORDS
    again, _ = training.batch(np.random.default_rng(0), 300)
    np.testing.assert_array_equal(images, again)


def refused(directory, records=RECORDS):
    with pytest.raises(ValueError, match=r"unpack cifar-10-binary\.tar\.gz") as error:
        cifar.read(directory, records)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    assert f"{name} cannot be read (No such file or directory)" in refused(directory)


def test_a_missing_directory_and_a_directory_in_place_of_a_file_are_named(directory):
    assert "data_batch_1.bin cannot be read" in refused(directory / "nowhere")
    (directory / "test_batch.bin").unlink()
    (directory / "test_batch.bin").mkdir()
    assert "test_batch.bin" in refused(directory)


@pytest.mark.parametrize("change", [-1, 1, 3_073])
def test_a_file_of_another_size_is_named_with_both_sizes(directory, change):
    path = directory / "data_batch_5.bin"
    path.write_bytes(path.read_bytes()[: RECORDS * 3_073 + min(0, change)] + bytes(max(0, change)))
    message = refused(directory)
    assert f"data_batch_5.bin has {RECORDS * 3_073 + change:,} bytes, not 12,292" in message


def test_small_files_are_not_taken_for_the_real_ones(directory):
    assert "has 12,292 bytes, not 30,730,000 (10,000 records of 3,073)" in refused(
        directory, cifar.RECORDS
    )


def test_a_label_that_is_no_class_is_refused(directory):
    path = directory / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3_073] = 10
    path.write_bytes(content)
    assert "data_batch_2.bin has the label 10, but classes are 0 to 9" in refused(directory)
