"""A TensorRT engine whose preprocess and arg-max run on the GPU: images or crops in, keypoints out.

While a batch is computed, the next one is uploaded and the keypoints of the one before are downloaded.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtmpose.data import postprocess
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import IN_FLIGHT, Slot, TensorRTEngine
from rtmpose.model.graph import OUTPUTS


class _KeypointRunner:
    """Network and arg-max on the GPU, with memory for :data:`IN_FLIGHT` batches, allocated at the start.

    Of each batch it downloads ``keypoints``, float32 (batch, K, 3): x and y in crop pixels, and the score of
    :func:`postprocess.decode`, which is NaN where a logit is NaN or infinite.
    """

    def __init__(self, engine: TensorRTEngine, flip_test: bool) -> None:
        self._engine, self._record, self._flip_test = engine, engine.record, flip_test
        self._cuda = engine.cuda
        major, minor = self._cuda.Context.get_device().compute_capability()
        self._module = engine.load_module(kernels.compile_kernels(f"{major}.{minor}"))
        self._decode = self._module.get_function("decode")
        self._decode.prepare("PPPPPiiiifP")
        self._flip_indices = self._upload(np.array(postprocess.COCO_FLIP_INDICES, np.int32))
        self._free: deque[Slot] = deque()

    def _upload(self, values: np.ndarray) -> Any:
        memory = self._engine.allocate(values.nbytes)
        self._cuda.memcpy_htod(memory, values)
        self._cuda.Context.synchronize()  # the copy may not have ended, and the engine's streams don't wait for it
        return memory

    def _make_slot(self, inputs: dict[str, np.ndarray], device: dict[str, Any]) -> Slot:
        """Memory of a batch; ``device`` is that of the inputs."""
        engine, record = self._engine, self._record
        outputs = {"keypoints": engine.pinned((record.batch, record.num_keypoints, 3), np.float32)}
        events = {stage: self._cuda.Event() for stage in ("started", "uploaded", "computed", "downloaded")}
        logits = {name: 4 * record.batch * record.num_keypoints * bins
                  for name, bins in zip(OUTPUTS, record.bins, strict=True)}
        if self._flip_test:
            logits |= {f"flipped {name}": size for name, size in logits.items()}
        device = {**device, **{name: engine.allocate(size) for name, size in logits.items()},
                  "keypoints": engine.allocate(outputs["keypoints"].nbytes)}
        return Slot(inputs, outputs, device, events)

    def _make_crops(self, device: Mapping[str, int], mirrored: bool) -> None:
        """Enqueue the work that makes the network's input, if any."""

    def _compute(self, memory: Mapping[str, Any]) -> None:
        """Enqueue crops, network and arg-max of a batch that is on the GPU."""
        engine, record = self._engine, self._record
        device = {name: int(pointer) for name, pointer in memory.items()}
        for prefix in ("", "flipped ") if self._flip_test else ("",):
            self._make_crops(device, prefix == "flipped ")
            engine.enqueue({record.input_name: device[record.input_name],
                            **{name: device[prefix + name] for name in OUTPUTS}})
        rows = record.batch * record.num_keypoints
        split_ratio = record.bins[0] / record.input_size[0]
        self._decode.prepared_async_call(
            kernels.decode_grid(rows), kernels.DECODE_BLOCK, engine.runs,
            *(device[name] for name in OUTPUTS), *(device.get(f"flipped {name}", 0) for name in OUTPUTS),
            int(self._flip_indices), rows, record.num_keypoints, *record.bins, split_ratio, device["keypoints"])


class CropRunner(_KeypointRunner):
    """Crops in pinned memory in, keypoints out; up to :data:`IN_FLIGHT` threads may call it at a time."""

    in_flight = IN_FLIGHT

    def __init__(self, engine: TensorRTEngine) -> None:
        """Compile the kernels and allocate; raises KitError if a package is missing or memory runs out."""
        super().__init__(engine, flip_test=False)
        self.batch = self._record.batch
        self._context, self._lock = self._cuda.Context.get_current(), threading.Lock()
        width, height = self._record.input_size
        self._crop_shape = (3, height, width)
        for _ in range(IN_FLIGHT):
            crops = self._upload(np.zeros((self.batch, *self._crop_shape), np.float32))
            self._free.append(self._make_slot({}, {self._record.input_name: crops}))
        engine.add_graphs(self._free, self._compute)

    def allocate_crops(self, number: int) -> list[np.ndarray]:
        """Pinned memory for crops, float32 (3, H, W) each."""
        return list(self._engine.pinned((number, *self._crop_shape), np.float32))

    def infer(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Keypoints and scores, float32 (N, K, 3), of up to a batch of crops of :meth:`allocate_crops`.

        The other rows of the batch keep the crops that were there before.
        """
        self._context.push()
        try:
            with self._lock:
                slot = self._free.popleft()
                self._enqueue(slot, crops)
            slot.events["downloaded"].synchronize()
            keypoints = slot.outputs["keypoints"][:len(crops)].copy()
            self._free.append(slot)
            return keypoints
        except BaseException:
            self._engine.wait()
            raise
        finally:
            self._cuda.Context.pop()

    def _enqueue(self, slot: Slot, crops: Sequence[np.ndarray]) -> None:
        row = int(slot.device[self._record.input_name])
        for crop in crops:
            self._cuda.memcpy_htod_async(row, crop, self._engine.uploads)
            row += crop.nbytes
        self._engine.enqueue_batch(slot, {}, self._compute)


@dataclass(frozen=True)
class ImageBatch:
    """Images and regions of one batch."""

    images: np.ndarray  # uint8, in pinned memory: one image after the other, BGR
    image_bytes: int  # of images that are used
    regions: np.ndarray  # kernels.REGION (N,); their starts are offsets in images


@dataclass(frozen=True)
class BatchResult:
    """Keypoints of one batch."""

    batch: ImageBatch  # as submitted; its memory may be reused
    keypoints: np.ndarray  # float32 (N, K, 3), see _KeypointRunner
    milliseconds: float  # from the start of the upload to the end of the download


class GpuStream(_KeypointRunner):
    """A stream of batches of images through the GPU, in the thread that loaded the engine."""

    def __init__(self, engine: TensorRTEngine, image_bytes: int, flip_test: bool = False) -> None:
        """Compile the kernels and allocate; raises KitError if a package is missing or memory runs out.

        ``image_bytes`` limits the images of one batch. ``flip_test``, as mmpose does it, needs COCO's 17 keypoints.
        """
        super().__init__(engine, flip_test)
        self._crop = self._module.get_function("crop")
        self._crop.prepare("PPPiiiP")
        self._table = self._upload(kernels.normalized_values())
        self._in_flight: deque[tuple[Slot, ImageBatch]] = deque()
        for _ in range(IN_FLIGHT):
            self._free.append(self._make_image_slot(image_bytes))
        engine.add_graphs(self._free, self._compute)

    def _make_image_slot(self, image_bytes: int) -> Slot:
        engine, record = self._engine, self._record
        width, height = record.input_size
        regions = engine.pinned((record.batch,), kernels.REGION)
        device = {"images": engine.allocate(image_bytes),
                  "regions": self._upload(regions),  # of empty images, which are safe to run on
                  record.input_name: engine.allocate(4 * record.batch * 3 * height * width)}
        return self._make_slot({"regions": regions}, device)

    def _make_crops(self, device: Mapping[str, int], mirrored: bool) -> None:
        record = self._record
        self._crop.prepared_async_call(
            kernels.crop_grid(record.batch, record.input_size), kernels.CROP_BLOCK, self._engine.runs,
            device["images"], device["regions"], int(self._table), *record.input_size, int(mirrored),
            device[record.input_name])

    def submit(self, batch: ImageBatch) -> None:
        """Enqueue a batch, given at most :data:`IN_FLIGHT` - 1 in flight; raises KitError if TensorRT refuses."""
        slot = self._free.popleft()
        regions = slot.inputs["regions"]
        regions[:len(batch.regions)] = batch.regions
        regions[len(batch.regions):] = batch.regions[0]  # padding
        slot.events["started"].record(self._engine.uploads)
        inputs = {"images": batch.images[:batch.image_bytes], "regions": regions}
        self._engine.enqueue_batch(slot, inputs, self._compute)
        self._in_flight.append((slot, batch))

    def collect(self) -> BatchResult:
        """Wait for the oldest batch in flight."""
        slot, batch = self._in_flight.popleft()
        slot.events["downloaded"].synchronize()
        keypoints = slot.outputs["keypoints"][:len(batch.regions)].copy()
        self._free.append(slot)
        return BatchResult(batch, keypoints, slot.events["started"].time_till(slot.events["downloaded"]))

    def run(self, batches: Iterable[ImageBatch]) -> Generator[BatchResult]:
        """Results of batches, in order, with :data:`IN_FLIGHT` in flight."""
        try:
            for batch in batches:
                if not self._free:
                    yield self.collect()
                self.submit(batch)
            while self._in_flight:
                yield self.collect()
        finally:  # nothing may be freed that a copy or a kernel still uses
            self._engine.wait()
