"""A TensorRT engine whose preprocess and arg-max run on the GPU: images or crops in, keypoints out."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rtmpose.data import postprocess, preprocess
from rtmpose.engines.in_flight import IN_FLIGHT
from rtmpose.engines.tensorrt import kernels
from rtmpose.engines.tensorrt.engine import KEYPOINTS, Device, TensorRTEngine
from rtmpose.errors import KitError
from rtmpose.model.graph import INPUT, OUTPUTS

_MIRRORED = "mirrored "  # before the names of the logits of mirrored crops


class _Kernels:
    """The kit's kernels for an engine, enqueued on its stream ``runs``."""

    def __init__(self, engine: TensorRTEngine) -> None:
        self._engine, self._record, cuda = engine, engine.record, engine.cuda
        major, minor = cuda.Context.get_device().compute_capability()
        try:
            module = cuda.module_from_buffer(kernels.compile_kernels(f"{major}.{minor}"))
        except cuda.Error as error:
            raise KitError(f"{engine.path}: the driver can't load the kit's kernels ({error}); install a driver for "
                           "the CUDA version of nvidia-cuda-nvrtc, or a newer one") from error
        self._crop, self._decode = module.get_function("crop"), module.get_function("decode")
        self._crop.prepare("PPPiiiP")
        self._decode.prepare("PPPPPiiiifP")
        self._table = self.upload(preprocess.NORMALIZED)
        self._flip_indices = self.upload(np.array(postprocess.COCO_FLIP_INDICES, np.int32))

    def upload(self, values: np.ndarray) -> Any:
        """GPU memory that holds ``values``."""
        memory = self._engine.allocate(values.nbytes)
        self._engine.cuda.memcpy_htod(memory, values)
        self._engine.cuda.Context.synchronize()  # the engine's streams don't wait for a copy that has not ended
        return memory

    def crop(self, device: Device, mirrored: bool) -> None:
        """Make crops of images and regions."""
        size = self._record.input_size
        self._crop.prepared_async_call(
            kernels.crop_grid(self._record.batch, size), kernels.CROP_BLOCK, self._engine.runs, int(device["images"]),
            int(device["regions"]), int(self._table), *size, int(mirrored), int(device[INPUT]))

    def decode(self, device: Device) -> None:
        """Make keypoints of logits, averaged with those of mirrored crops if there are some."""
        record = self._record
        rows, split_ratio = record.batch * record.num_keypoints, record.bins[0] / record.input_size[0]
        logits = [int(device.get(prefix + name, 0)) for prefix in ("", _MIRRORED) for name in OUTPUTS]
        self._decode.prepared_async_call(
            kernels.decode_grid(rows), kernels.DECODE_BLOCK, self._engine.runs, *logits, int(self._flip_indices), rows,
            record.num_keypoints, *record.bins, split_ratio, int(device[KEYPOINTS]))


def enqueue_pixels(crops: np.ndarray, engine: TensorRTEngine) -> Callable[[int], None]:
    """A function that enqueues the i-th batch of crops, float32 (batch, 3, H, W), as images of 8-bit pixels.

    That uploads a quarter of the bytes. The GPU makes the same crops of them, and keypoints are downloaded.
    """
    batch, _, height, width = crops.shape
    pixels, regions = engine.pinned((batch, height, width, 3), np.uint8), engine.pinned((batch,), kernels.REGION)
    pixels[...] = preprocess.to_pixels(crops)[..., ::-1]
    regions["map"], regions["width"], regions["height"] = (1, 0, 0, 0, 1, 0), width, height
    regions["start"] = np.arange(batch) * pixels[0].nbytes
    runner = KeypointRunner(engine, pixels.nbytes)
    uploads = [("images", 0, pixels), ("regions", 0, regions)]
    return lambda i: engine.enqueue_batch(runner.slots[i % IN_FLIGHT], uploads)


class KeypointRunner:
    """Images or crops in, keypoints out; up to :data:`IN_FLIGHT` threads may call it at a time.

    Keypoints of N persons are float32 (N, K, 3): x and y in crop pixels, and the score of :func:`postprocess.decode`,
    which is NaN where a logit is NaN or infinite.
    """

    def __init__(self, engine: TensorRTEngine, image_bytes: int = 0, flip_test: bool = False) -> None:
        """Compile the kernels and allocate; raises KitError if a package is missing or memory runs out.

        ``image_bytes`` limits the images of one batch; without it, crops are given. ``flip_test``, as mmpose does it,
        needs images and COCO's 17 keypoints.
        """
        gpu = _Kernels(engine)

        def compute(device: Device) -> None:
            for prefix in ("", _MIRRORED) if flip_test else ("",):
                if image_bytes:
                    gpu.crop(device, mirrored=prefix == _MIRRORED)
                engine.enqueue(device, prefix)
            gpu.decode(device)

        self.slots = []
        for _ in range(IN_FLIGHT):
            device = engine.allocate_tensors((INPUT, *OUTPUTS, KEYPOINTS))
            if flip_test:
                device |= {_MIRRORED + name: memory for name, memory in engine.allocate_tensors(OUTPUTS).items()}
            if image_bytes:
                empty = np.zeros(engine.record.batch, kernels.REGION)  # safe to run on
                device |= {"images": engine.allocate(image_bytes), "regions": gpu.upload(empty)}
            self.slots.append(engine.make_slot([KEYPOINTS], device, compute))
        engine.add_graphs(self.slots)
        self._engine, self._lock, self._free = engine, threading.Lock(), deque(self.slots)
        self._kernels = gpu  # a recorded graph doesn't keep their memory

    def infer_images(self, images: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, float]:
        """Keypoints of a batch of regions, and the milliseconds from the start of the upload to the download's end.

        Both are in pinned memory: uint8, one image after the other, BGR; and :data:`kernels.REGION` (batch,), whose
        starts are offsets in images.
        """
        return self._infer([("images", 0, images), ("regions", 0, regions)], len(regions))

    def infer_crops(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Keypoints of up to a batch of crops, float32 (3, H, W) each, in pinned memory."""
        return self._infer([(INPUT, row * crop.nbytes, crop) for row, crop in enumerate(crops)], len(crops))[0]

    def _infer(self, uploads: Iterable[tuple[str, int, np.ndarray]], number: int) -> tuple[np.ndarray, float]:
        with self._engine.in_context():
            try:
                with self._lock:
                    slot = self._free.popleft()
                    self._engine.enqueue_batch(slot, uploads)
                slot.events["downloaded"].synchronize()
                keypoints = slot.outputs[KEYPOINTS][:number].copy()
                milliseconds = slot.events["started"].time_till(slot.events["downloaded"])
                self._free.append(slot)
                return keypoints, milliseconds
            except BaseException:
                self._engine.wait()  # nothing may be freed that a copy or a kernel still uses
                raise
