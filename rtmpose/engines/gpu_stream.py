"""Images in, keypoints out, with a TensorRT engine: crops, network and arg-max never leave the GPU.

A batch of images is uploaded as bytes while the batch before it is computed; its keypoints are downloaded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtmpose.data import postprocess
from rtmpose.engines.cuda_graph import Graph
from rtmpose.engines.cuda_kernels import (
    CROP_BLOCK,
    DECODE_BLOCK,
    REGION,
    compile_kernels,
    crop_grid,
    crop_map,
    decode_grid,
    normalized_values,
)
from rtmpose.engines.tensorrt_backend import IN_FLIGHT, TensorRTEngine
from rtmpose.model.graph import OUTPUTS


@dataclass(frozen=True)
class CropRegion:
    """Region of an image that is to be cropped.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        center, scale: as :func:`rtmpose.data.preprocess.box_to_center_scale` gives them.
    """

    image: np.ndarray
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class BatchResult:
    """Keypoints of one batch.

    Attributes:
        regions: that were submitted.
        keypoints: float32 (N, K, 2), in crop pixels.
        scores: float32 (N, K), as :func:`rtmpose.data.postprocess.decode` gives them, but NaN where a logit was NaN or
            infinite.
        milliseconds: from the start of the batch's upload to the end of its download.
    """

    regions: Sequence[CropRegion]
    keypoints: np.ndarray
    scores: np.ndarray
    milliseconds: float


@dataclass
class _Slot:
    """Memory and state of one batch in flight: pinned host memory, GPU memory, the events between the streams, the
    work as a CUDA graph, if that is faster, and the regions that were submitted."""

    images: np.ndarray
    regions: np.ndarray
    keypoints: np.ndarray
    device: dict[str, Any]
    events: dict[str, Any]
    graph: Graph | None = None
    submitted: Sequence[CropRegion] = ()


class GpuStream:
    """Batches of persons under way on the GPU, at most :data:`IN_FLIGHT` at a time.

    All memory is allocated here. Use it in the thread that loaded the engine.
    """

    def __init__(self, engine: TensorRTEngine, image_bytes: int, flip_test: bool = False) -> None:
        """Compile the kernels and allocate.

        Args:
            engine: for 17 keypoints where there is a flip test.
            image_bytes: the most that the images of one batch hold together.
            flip_test: average with the mirrored crop, as mmpose's ``flip_test`` does.

        Raises:
            KitError: a package is missing, or there is not enough memory.
        """
        self._engine, self._record, self._flip_test = engine, engine.record, flip_test
        self._cuda = engine.cuda
        major, minor = self._cuda.Context.get_device().compute_capability()
        module = self._cuda.module_from_buffer(compile_kernels(f"{major}.{minor}"))
        self._crop = module.get_function("crop")
        self._crop.prepare("PPPiiiP")
        self._decode = module.get_function("decode")
        self._decode.prepare("PPPPPiiiifP")
        self._table = self._upload(normalized_values())
        self._flip_indices = self._upload(np.array(postprocess.COCO_FLIP_INDICES, np.int32))
        self._slots = deque(self._make_slot(image_bytes) for _ in range(IN_FLIGHT))
        self._in_flight: deque[_Slot] = deque()

    def _upload(self, values: np.ndarray) -> Any:
        memory = self._engine.allocate(values.nbytes)
        self._cuda.memcpy_htod(memory, values)
        # The copy may still be under way, and the engine's streams don't wait for it.
        self._cuda.Context.synchronize()
        return memory

    def _make_slot(self, image_bytes: int) -> _Slot:
        engine, record = self._engine, self._record
        slot = _Slot(engine.pinned((image_bytes,), np.uint8), engine.pinned((record.batch,), REGION),
                     engine.pinned((record.batch, record.num_keypoints, 3), np.float32), {},
                     {name: self._cuda.Event() for name in ("started", "uploaded", "computed", "downloaded")})
        logits = [4 * record.batch * record.num_keypoints * bins for bins in record.bins]
        width, height = record.input_size
        sizes = {"images": image_bytes, "keypoints": slot.keypoints.nbytes,
                 record.input_name: 4 * record.batch * 3 * height * width,
                 **dict(zip(OUTPUTS, logits, strict=True))}
        if self._flip_test:
            sizes |= {f"flipped {name}": size for name, size in zip(OUTPUTS, logits, strict=True)}
        slot.device.update((name, engine.allocate(size)) for name, size in sizes.items())
        slot.device["regions"] = self._upload(slot.regions)  # of empty images, which are safe to run on
        slot.graph = engine.faster_graph(lambda: self._compute(slot))
        return slot

    def _compute(self, slot: _Slot) -> None:
        """Enqueue crops, network and arg-max of a batch whose images are on the GPU."""
        record, device = self._record, slot.device
        for prefix in ("", "flipped ") if self._flip_test else ("",):
            self._crop.prepared_async_call(
                crop_grid(record.batch, record.input_size), CROP_BLOCK, self._engine.runs, int(device["images"]),
                int(device["regions"]), int(self._table), *record.input_size, int(bool(prefix)),
                int(device[record.input_name]))
            self._engine.enqueue({record.input_name: device[record.input_name],
                                  **{name: device[prefix + name] for name in OUTPUTS}})
        rows = record.batch * record.num_keypoints
        self._decode.prepared_async_call(
            decode_grid(rows), DECODE_BLOCK, self._engine.runs, *(int(device[name]) for name in OUTPUTS),
            *(int(device.get(f"flipped {name}", 0)) for name in OUTPUTS), int(self._flip_indices), rows,
            record.num_keypoints, *record.bins, record.bins[0] / record.input_size[0], int(device["keypoints"]))

    def submit(self, regions: Sequence[CropRegion]) -> None:
        """Send a batch on its way and return at once.

        Args:
            regions: at most the engine's batch; an image goes up once, however many persons are cut out of it. At
                most :data:`IN_FLIGHT` batches can be under way; :meth:`collect` makes room.

        Raises:
            KitError: TensorRT refuses.
        """
        engine, slot = self._engine, self._slots.popleft()
        used = self._fill(slot, regions)
        slot.events["started"].record(engine.uploads)
        self._cuda.memcpy_htod_async(slot.device["images"], slot.images[:used], engine.uploads)
        self._cuda.memcpy_htod_async(slot.device["regions"], slot.regions, engine.uploads)
        slot.events["uploaded"].record(engine.uploads)
        engine.runs.wait_for_event(slot.events["uploaded"])
        if slot.graph:
            slot.graph.launch()
        else:
            self._compute(slot)
        slot.events["computed"].record(engine.runs)
        engine.downloads.wait_for_event(slot.events["computed"])
        self._cuda.memcpy_dtoh_async(slot.keypoints, slot.device["keypoints"], engine.downloads)
        slot.events["downloaded"].record(engine.downloads)
        self._in_flight.append(slot)

    def _fill(self, slot: _Slot, regions: Sequence[CropRegion]) -> int:
        """Write images and regions into pinned memory; a partial batch is padded with its first person.

        Returns:
            the bytes of the images.
        """
        used, starts = 0, {}
        for row, region in zip(slot.regions, regions, strict=False):
            image = region.image
            if id(image) not in starts:
                starts[id(image)] = used
                slot.images[used:used + image.size].reshape(image.shape)[...] = image
                used += image.size
            row["map"] = crop_map(region.center, region.scale, self._record.input_size)
            row["start"], (row["height"], row["width"]) = starts[id(image)], image.shape[:2]
        slot.regions[len(regions):] = slot.regions[0]
        slot.submitted = regions
        return used

    def collect(self) -> BatchResult:
        """Wait for the batch that was submitted first of those in flight."""
        slot = self._in_flight.popleft()
        slot.events["downloaded"].synchronize()
        decoded = slot.keypoints[:len(slot.submitted)].copy()
        self._slots.append(slot)
        return BatchResult(slot.submitted, decoded[..., :2], decoded[..., 2],
                           slot.events["started"].time_till(slot.events["downloaded"]))

    def run(self, batches: Iterable[Sequence[CropRegion]]) -> Iterator[BatchResult]:
        """Results of batches, in order, with :data:`IN_FLIGHT` under way."""
        try:
            for batch in batches:
                if not self._slots:
                    yield self.collect()
                self.submit(batch)
            while self._in_flight:
                yield self.collect()
        finally:  # nothing may be freed that a copy or a kernel still uses
            for slot in self._in_flight:
                slot.events["downloaded"].synchronize()
