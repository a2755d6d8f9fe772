"""Images in, keypoints out, with a TensorRT engine: crops, network and arg-max stay on the GPU.

While a batch is computed, the images of the next one are uploaded and the keypoints of the one before are downloaded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtmpose.data import postprocess
from rtmpose.engines import cuda_kernels
from rtmpose.engines.tensorrt_backend import IN_FLIGHT, Slot, TensorRTEngine
from rtmpose.model.graph import OUTPUTS


@dataclass(frozen=True)
class CropRegion:
    """A region of an image to crop; center and scale are those of :func:`preprocess.box_to_center_scale`."""

    image: np.ndarray  # uint8 (H, W, 3), BGR
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class BatchResult:
    """Keypoints of one batch."""

    regions: Sequence[CropRegion]  # as submitted
    keypoints: np.ndarray  # float32 (N, K, 2), in crop pixels
    scores: np.ndarray  # float32 (N, K), those of postprocess.decode, but NaN where a logit is NaN or infinite
    milliseconds: float  # from the start of the upload to the end of the download


class GpuStream:
    """A stream of batches through the GPU, in the thread that loaded the engine. Allocates all memory at the start."""

    def __init__(self, engine: TensorRTEngine, image_bytes: int, flip_test: bool = False) -> None:
        """Compile the kernels and allocate; raises KitError if a package is missing or memory runs out.

        ``image_bytes`` limits the images of one batch. ``flip_test``, as mmpose does it, needs COCO's 17 keypoints.
        """
        self._engine, self._record, self._flip_test = engine, engine.record, flip_test
        self._cuda = engine.cuda
        major, minor = self._cuda.Context.get_device().compute_capability()
        module = engine.load_module(cuda_kernels.compile_kernels(f"{major}.{minor}"))
        self._crop = module.get_function("crop")
        self._crop.prepare("PPPiiiP")
        self._decode = module.get_function("decode")
        self._decode.prepare("PPPPPiiiifP")
        self._table = self._upload(cuda_kernels.normalized_values())
        self._flip_indices = self._upload(np.array(postprocess.COCO_FLIP_INDICES, np.int32))
        self._free = deque(self._make_slot(image_bytes) for _ in range(IN_FLIGHT))
        self._in_flight: deque[tuple[Slot, Sequence[CropRegion]]] = deque()

    def _upload(self, values: np.ndarray) -> Any:
        memory = self._engine.allocate(values.nbytes)
        self._cuda.memcpy_htod(memory, values)
        self._cuda.Context.synchronize()  # the copy may not have ended, and the engine's streams don't wait for it
        return memory

    def _make_slot(self, image_bytes: int) -> Slot:
        engine, record = self._engine, self._record
        inputs = {"images": engine.pinned((image_bytes,), np.uint8),  # one image after the other
                  "regions": engine.pinned((record.batch,), cuda_kernels.REGION)}
        outputs = {"keypoints": engine.pinned((record.batch, record.num_keypoints, 3), np.float32)}  # x, y, score
        events = {stage: self._cuda.Event() for stage in ("started", "uploaded", "computed", "downloaded")}
        width, height = record.input_size
        logits = {name: 4 * record.batch * record.num_keypoints * bins
                  for name, bins in zip(OUTPUTS, record.bins, strict=True)}
        sizes = {"images": image_bytes, "keypoints": outputs["keypoints"].nbytes,
                 record.input_name: 4 * record.batch * 3 * height * width, **logits}
        if self._flip_test:
            sizes |= {f"flipped {name}": size for name, size in logits.items()}
        device = {name: engine.allocate(size) for name, size in sizes.items()}
        device["regions"] = self._upload(inputs["regions"])  # of empty images, which are safe to run on
        return Slot(inputs, outputs, device, events, engine.faster_graph(lambda: self._compute(device)))

    def _compute(self, memory: Mapping[str, Any]) -> None:
        """Enqueue crops, network and arg-max of a batch whose images are on the GPU."""
        engine, record = self._engine, self._record
        device = {name: int(pointer) for name, pointer in memory.items()}
        for prefix in ("", "flipped ") if self._flip_test else ("",):
            self._crop.prepared_async_call(
                cuda_kernels.crop_grid(record.batch, record.input_size), cuda_kernels.CROP_BLOCK, engine.runs,
                device["images"], device["regions"], int(self._table), *record.input_size, int(prefix == "flipped "),
                device[record.input_name])
            engine.enqueue({record.input_name: device[record.input_name],
                            **{name: device[prefix + name] for name in OUTPUTS}})
        rows = record.batch * record.num_keypoints
        split_ratio = record.bins[0] / record.input_size[0]
        self._decode.prepared_async_call(
            cuda_kernels.decode_grid(rows), cuda_kernels.DECODE_BLOCK, engine.runs,
            *(device[name] for name in OUTPUTS), *(device.get(f"flipped {name}", 0) for name in OUTPUTS),
            int(self._flip_indices), rows, record.num_keypoints, *record.bins, split_ratio, device["keypoints"])

    def submit(self, regions: Sequence[CropRegion]) -> None:
        """Enqueue a batch, given at most :data:`IN_FLIGHT` - 1 in flight; raises KitError if TensorRT refuses."""
        slot = self._free.popleft()
        inputs = self._fill(slot, regions)
        slot.events["started"].record(self._engine.uploads)
        self._engine.enqueue_batch(slot, inputs, self._compute)
        self._in_flight.append((slot, regions))

    def _fill(self, slot: Slot, regions: Sequence[CropRegion]) -> dict[str, np.ndarray]:
        """Write a batch into pinned memory, padded with its first region, and return the parts to upload."""
        images, rows = slot.inputs["images"], slot.inputs["regions"]
        starts: dict[int, int] = {}  # offset of each image by its id(); an image with several regions is written once
        end = 0
        for row, region in zip(rows, regions, strict=False):
            image = region.image
            if id(image) not in starts:
                starts[id(image)], end = end, end + image.size
                images[starts[id(image)]:end] = image.ravel()
            row["map"] = cuda_kernels.crop_map(region.center, region.scale, self._record.input_size)
            row["start"] = starts[id(image)]
            row["height"], row["width"], _ = image.shape
        rows[len(regions):] = rows[0]
        return {"images": images[:end], "regions": rows}

    def collect(self) -> BatchResult:
        """Wait for the oldest batch in flight."""
        slot, regions = self._in_flight.popleft()
        slot.events["downloaded"].synchronize()
        decoded = slot.outputs["keypoints"][:len(regions)].copy()
        self._free.append(slot)
        return BatchResult(regions, decoded[..., :2], decoded[..., 2],
                           slot.events["started"].time_till(slot.events["downloaded"]))

    def run(self, batches: Iterable[Sequence[CropRegion]]) -> Iterator[BatchResult]:
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
