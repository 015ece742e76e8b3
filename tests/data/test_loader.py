from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfocal import config
from hyperfocal.data import (
    ClassBalancedSampler,
    DataConfig,
    RepeatFactorSampler,
    TransformConfig,
    epoch_length,
    eval_batches,
    read_annotations,
    train_batches,
)
from hyperfocal.types import Batch, ConfigError, DataError, HyperfocalWarning

RANDOM = TransformConfig(short=(32, 48), long=80, flip=0.5, zoom=(0.7, 1.5), brightness=0.3)


@dataclass(frozen=True)
class Holder(config.Config):
    data: DataConfig = field(default_factory=DataConfig)
    """As in an experiment."""


def settings(workers: int = 0, **changes) -> DataConfig:
    base = {"train_transform": RANDOM, "val_transform": TransformConfig(short=32, long=60)}
    return DataConfig(workers=workers, **(base | changes))


@pytest.fixture
def dataset(coco, noise_image):
    """Nine images of various sizes, portrait and landscape, one of them without boxes."""
    coco.data["images"], coco.data["annotations"] = [], []
    sizes = [
        (40, 60),
        (60, 40),
        (50, 50),
        (30, 90),
        (90, 30),
        (45, 60),
        (64, 48),
        (33, 77),
        (20, 20),
    ]
    for n, (height, width) in enumerate(sizes, start=11):
        Image.fromarray(noise_image(height, width, n)).save(coco.images / f"{n}.png")
        coco.data["images"].append({"id": n, "file_name": f"{n}.png"})
        if n != 13:
            coco.annotate(image_id=n, bbox=[2, 3, width / 2, height / 2], category_id=3)
            coco.annotate(image_id=n, bbox=[0, 0, 9, 9], category_id=7, iscrowd=n % 2)
    return read_annotations(coco.write(), coco.images)


def take(dataset, count: int, chosen: DataConfig | None = None, **options) -> list[Batch]:
    options = {"batch_size": 4, "seed": 0} | options
    return list(islice(train_batches(chosen or settings(), dataset, **options), count))


def assert_same(one: Batch, other: Batch) -> None:
    assert one.image_ids == other.image_ids
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.valid_hw, other.valid_hw)
    assert torch.equal(one.original_hw, other.original_hw)
    for a, b in zip(one.targets, other.targets, strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.labels, b.labels)


def test_a_training_batch(dataset):
    padded = usable = 0
    for batch in take(dataset, 8):
        assert len(batch) == 4
        assert batch.images.dtype == torch.uint8
        assert all(side % 32 == 0 for side in batch.images.shape[-2:])
        assert batch.valid_hw.dtype == batch.original_hw.dtype == torch.int64
        portrait = batch.original_hw[:, 0] > batch.original_hw[:, 1]
        assert portrait.all() or not portrait.any()
        for n, (height, width) in enumerate(batch.valid_hw.tolist()):
            assert batch.images[n, :, :height, :width].float().std() > 0
            assert not batch.images[n, :, height:].any()
            assert not batch.images[n, :, :, width:].any()
            padded += batch.images.shape[-2:] != (height, width)
            target = batch.targets[n]
            assert target.boxes.dtype == torch.float32
            assert target.labels.dtype == torch.int64
            # Crowd boxes, which the odd ids have under label 1, are no targets.
            with_label_1 = 1 in target.labels.tolist()
            assert batch.image_ids[n] % 2 == 0 or not with_label_1
            usable += with_label_1
    assert padded
    assert usable


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset, workers):
    for one, other in zip(take(dataset, 7), take(dataset, 7, settings(workers)), strict=True):
        assert_same(one, other)


def test_seeds_and_steps_change_everything(dataset):
    first, second = take(dataset, 2)
    (other,) = take(dataset, 1, seed=1)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_from_a_step(dataset, workers):
    whole = take(dataset, 9)
    rest = take(dataset, 4, settings(workers), start_step=5)
    for one, other in zip(whole[5:], rest, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_give_the_same_global_batch(dataset, world_size):
    whole = take(dataset, 5)
    parts = [take(dataset, 5, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        pieces = [part[step] for part in parts]
        # Padded alike, so that the pieces stack to the whole.
        assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
        assert sum((piece.image_ids for piece in pieces), ()) == batch.image_ids
        boxes = [target.boxes for piece in pieces for target in piece.targets]
        assert all(map(torch.equal, boxes, (target.boxes for target in batch.targets)))


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="who sent it is not known here")
def test_sigterm_ends_a_worker_only_from_its_main_process(dataset):
    batches = iter(train_batches(settings(1), dataset, batch_size=2, seed=0))
    next(batches)
    (worker,) = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    for _ in range(10):
        next(batches)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    batches.close()


def test_torchs_global_generator_is_left_alone(dataset):
    for workers in (0, 1):
        torch.manual_seed(3)
        take(dataset, 2, settings(workers))
        drawn = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    "sampler", [RepeatFactorSampler.Config(1.0), ClassBalancedSampler.Config()]
)
def test_samplers_are_used(dataset, sampler):
    chosen = settings(sampler=sampler, group_by_aspect=False)
    assert epoch_length(chosen, dataset) >= 9
    shown = [n for batch in take(dataset, 60, chosen) for n in batch.image_ids]
    plain = [n for batch in take(dataset, 60) for n in batch.image_ids]
    assert np.bincount(plain).max() <= 28
    # Category 7 is only in the images with even ids: they come more often.
    even = np.mean([n % 2 == 0 for n in shown])
    assert even > np.mean([n % 2 == 0 for n in plain]) + 0.05
    if isinstance(sampler, ClassBalancedSampler.Config):
        assert 13 not in shown  # has no boxes


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_sees_every_image_once(dataset, workers, world_size):
    seen = []
    for rank in range(world_size):
        batches = eval_batches(
            settings(workers), dataset, batch_size=2, rank=rank, world_size=world_size
        )
        found = list(batches)
        assert len(found) == len(batches)
        seen += [n for batch in found for n in batch.image_ids]
        assert [b.image_ids for b in batches] == [b.image_ids for b in found]  # once more
    assert sorted(seen) == list(range(11, 20))


def test_evaluation_pads_little(dataset):
    batches = list(eval_batches(settings(divisor=1), dataset, batch_size=3))
    padded = sum(batch.images[:, 0].numel() for batch in batches)
    real = sum(int(batch.valid_hw.prod(dim=1).sum()) for batch in batches)
    unsorted = take(
        dataset,
        1,
        settings(
            divisor=1, train_transform=TransformConfig(short=32, long=60), group_by_aspect=False
        ),
        batch_size=9,
    )
    assert padded < 1.5 * real < unsorted[0].images[:, 0].numel()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_during_training_is_counted_and_replaced(dataset, workers):
    record = dataset.images[4]
    record.path.write_bytes(b"overwritten")
    wrong = f"image id 15: {record.path}: not an image, or of an unknown kind"
    some = settings(workers, max_broken=0.2)
    with pytest.warns(HyperfocalWarning) as warned:
        batches = take(dataset, 9, some)
    # Once, though the image was drawn several times.
    assert [str(w.message) for w in warned] == [
        f"{wrong}; another image takes its place (1 of 9 images so far)"
    ]
    ids = [i for batch in batches for i in batch.image_ids]
    assert 15 not in ids
    assert len(ids) == 36
    with pytest.warns(HyperfocalWarning, match="another image"):
        again = take(dataset, 9, settings(1 - workers, max_broken=0.2))
    for one, other in zip(batches, again, strict=True):
        assert_same(one, other)


def test_an_image_that_breaks_before_an_evaluation_is_grey(dataset):
    record = dataset.images[4]
    good = list(eval_batches(settings(), dataset, batch_size=1))
    record.path.write_bytes(b"overwritten")
    with pytest.warns(HyperfocalWarning, match="image id 15: .* its boxes count as missed"):
        found = list(eval_batches(settings(max_broken=0.2), dataset, batch_size=1))
    for before, after in zip(good, found, strict=True):
        assert before.image_ids == after.image_ids
        assert torch.equal(before.valid_hw, after.valid_hw)
        if after.image_ids == (15,):
            h, w = after.valid_hw[0].tolist()
            assert after.images[0, :, :h, :w].unique().numel() == 1
        else:
            assert_same(before, after)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_end_the_run(dataset, workers):
    for n in (4, 5):
        dataset.images[n].path.write_bytes(b"overwritten")
    for make in (
        lambda: take(dataset, 9, settings(workers, max_broken=0.2)),
        lambda: list(eval_batches(settings(workers, max_broken=0.2), dataset, batch_size=2)),
    ):
        with pytest.warns(HyperfocalWarning), pytest.raises(DataError) as caught:
            make()
        head, *lines = str(caught.value).splitlines()
        assert head.startswith("2 of 9 images broke during the run, more than the share that")
        # The messages alone, without a worker's traceback.
        assert sorted(line.strip() for line in lines) == [
            f"image id {id}: {dataset.images[n].path}: not an image, or of an unknown kind"
            for n, id in ((4, 15), (5, 16))
        ]


def test_when_nothing_is_left_to_replace_with(dataset):
    for record in dataset.images:
        record.path.unlink()
    with pytest.raises(DataError, match="none of these can be read"):
        take(dataset, 1, settings(max_broken=1.0))


def test_an_image_of_another_size_than_checked(dataset):
    Image.new("RGB", (5, 5)).save(dataset.images[0].path)
    with pytest.raises(
        DataError, match=r"image id 11: .*11\.png is 5x5, but .* annotated as 60x40"
    ):
        take(dataset, 9)


def test_impossible_sizes(dataset):
    with pytest.raises(ConfigError, match="batch_size = 4 doesn't give each of 5"):
        train_batches(settings(), dataset, batch_size=4, seed=0, world_size=5)
    with pytest.raises(ConfigError, match="batch_size = 0"):
        eval_batches(settings(), dataset, batch_size=0)
    with pytest.raises(ConfigError, match="seed = -1"):
        train_batches(settings(), dataset, batch_size=4, seed=-1)


def test_impossible_settings():
    with pytest.raises(ConfigError, match=r"val_transform = .* free of randomness"):
        DataConfig(val_transform=TransformConfig(flip=0.5))
    with pytest.raises(ConfigError, match="workers = -1"):
        DataConfig(workers=-1)
    with pytest.raises(ConfigError, match="divisor = 0"):
        DataConfig(divisor=0)


def test_settings_survive_json_and_the_command_line():
    made = settings(sampler=RepeatFactorSampler.Config(0.01, "ceil"))
    assert config.load(DataConfig, config.dump(made)) == made
    words = ["--data.train.annotations", "a.json", "--sampler", "rfs", "--sampler.threshold", "0.1"]
    words += ["--data.train-transform.short", "640", "800"]
    found = config.override(Holder(), words, "test").data
    assert found.train.annotations is not None
    assert found.train.annotations.name == "a.json"
    assert found.sampler == RepeatFactorSampler.Config(0.1)
    assert found.train_transform.short == (640, 800)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups and signals are POSIX's")
def test_ctrl_c_ends_main_and_workers(dataset, coco):
    """SIGINT to the whole process group, as a terminal sends it, in the middle of loading."""
    program = f"""
        import os, signal, threading, time
        from pathlib import Path
        from hyperfocal.data import *
        from hyperfocal.data import loader
        annotations = read_annotations(Path({str(coco.file)!r}), Path({str(coco.images)!r}))
        chosen = DataConfig(train_transform=TransformConfig(short=32), workers=2)
        start = loader.start_worker
        loader.start_worker = lambda *given: (time.sleep(1), start(*given))
        # As a training loop that finishes its step: workers must continue, even half-started ones.
        usual = signal.default_int_handler  # even where the tests run with SIGINT ignored
        signal.signal(signal.SIGINT, lambda *_: print("noted", flush=True))
        batches = iter(train_batches(chosen, annotations, batch_size=2, seed=0))
        threading.Timer(0.3, os.killpg, (0, signal.SIGINT)).start()
        next(batches)
        os.killpg(0, signal.SIGINT)
        for _ in range(20):
            next(batches)
        # As a program that doesn't care.
        signal.signal(signal.SIGINT, usual)
        try:
            os.killpg(0, signal.SIGINT)
            while True:
                next(batches)
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = running.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    assert out == "noted\nnoted\nstopped\n", errors
    assert running.returncode == 0
    with pytest.raises(ProcessLookupError):  # no process is left in the group
        os.killpg(running.pid, 0)


def test_each_process_of_an_evaluation_is_held_to_its_own_share(dataset):
    """Every image is seen by one process, so the limit can't be that of all images."""
    for record in dataset.images:
        record.path.write_bytes(b"overwritten")
    for rank in range(3):
        with pytest.warns(HyperfocalWarning), pytest.raises(DataError, match="2 of 3 images"):
            list(
                eval_batches(
                    settings(max_broken=0.4), dataset, batch_size=1, rank=rank, world_size=3
                )
            )
