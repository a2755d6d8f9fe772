// Preprocess and postprocess on the GPU: images to crops, and logits to keypoints.
//
// Compiled with -fmad=false, the operators round as IEEE 754 says on a GPU and on a CPU alike, so the crops and keypoints
// are bit-equal to those of rtmpose/data/preprocess.py and postprocess.py.

// The region of an image that shows a person; kernels.REGION has the same 64 bytes.
struct Region {
    double map[6];             // from pixels of the crop to pixels of the image, row by row
    unsigned long long start;  // offset of the image in bytes: 8-bit BGR, rows without padding
    int width, height;         // of the image
};

// cv2.warpAffine's fixed point for INTER_LINEAR: coordinates in 1/1024, then in 1/32 of a pixel.
__device__ inline int position(double along, double across, double offset, int x, int y)
{
    int shift = (int)rint(along * x * 1024.0);
    int start = (int)rint((across * y + offset) * 1024.0) + 16;
    return (start + shift) >> 5;
}

__device__ inline int pixel(const unsigned char* image, const Region& region, int x, int y, int channel)
{
    bool inside = x >= 0 && x < region.width && y >= 0 && y < region.height;
    return inside ? image[3 * ((long long)y * region.width + x) + channel] : 0;
}

// One thread a pixel of the crop. `table` holds the normalized value of every 8-bit pixel, for R, G and B.
// Grid: crop's width and height in blocks, persons.
extern "C" __global__ void crop(const unsigned char* images, const Region* regions, const float* table, int width,
                                int height, int mirrored, float* crops)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Region& region = regions[blockIdx.z];
    const unsigned char* image = images + region.start;
    int at_x = position(region.map[0], region.map[1], region.map[2], x, y);
    int at_y = position(region.map[3], region.map[4], region.map[5], x, y);
    int left = at_x >> 5, top = at_y >> 5, right_weight = at_x & 31, bottom_weight = at_y & 31;
    int column = mirrored ? width - 1 - x : x;
    for (int channel = 0; channel < 3; ++channel) {
        int from = 2 - channel;  // the image is BGR, the network takes RGB
        int upper = (32 - right_weight) * pixel(image, region, left, top, from)
                    + right_weight * pixel(image, region, left + 1, top, from);
        int lower = (32 - right_weight) * pixel(image, region, left, top + 1, from)
                    + right_weight * pixel(image, region, left + 1, top + 1, from);
        int value = ((32 - bottom_weight) * upper + bottom_weight * lower + 512) >> 10;
        crops[((blockIdx.z * 3LL + channel) * height + y) * width + column] = table[256 * channel + value];
    }
}

struct Peak {
    float value;
    int bin;
    int broken;  // whether a logit is NaN or infinite

    __device__ void take(float other, int other_bin)
    {
        if (other > value || (other == value && other_bin < bin)) {
            value = other;
            bin = other_bin;
        }
    }
};

// Arg-max of a row of logits by the 32 threads of a warp; the first of equal maxima wins. If `flipped` is not null, the
// logits are averaged with those of the mirrored crop first.
__device__ inline Peak peak(const float* logits, const float* flipped, int bins, bool mirror_axis)
{
    const float largest = 3.402823466e+38f;
    Peak best = {-largest, bins, 0};
    for (int bin = threadIdx.x; bin < bins; bin += 32) {
        float value = logits[bin];
        if (flipped) value = (value + flipped[mirror_axis ? bins - 1 - bin : bin]) * 0.5f;
        if (!(fabsf(value) <= largest)) best.broken = 1;
        best.take(value, bin);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        best.broken |= __shfl_xor_sync(0xffffffff, best.broken, distance);
        best.take(__shfl_xor_sync(0xffffffff, best.value, distance), __shfl_xor_sync(0xffffffff, best.bin, distance));
    }
    return best;
}

// One warp a keypoint: x and y in pixels of the crop, and the score, which is NaN if a logit is not finite.
// `flip_indices` maps each keypoint to its mirrored one; it is read with flipped logits only.
extern "C" __global__ void decode(const float* simcc_x, const float* simcc_y, const float* flipped_x,
                                  const float* flipped_y, const int* flip_indices, int rows, int keypoints, int bins_x,
                                  int bins_y, float split_ratio, float* decoded)
{
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    long long mirrored = flipped_x ? row - row % keypoints + flip_indices[row % keypoints] : 0;
    Peak x = peak(simcc_x + 1LL * row * bins_x, flipped_x ? flipped_x + mirrored * bins_x : 0, bins_x, true);
    Peak y = peak(simcc_y + 1LL * row * bins_y, flipped_y ? flipped_y + mirrored * bins_y : 0, bins_y, false);
    if (threadIdx.x != 0) return;
    float score = x.value > y.value ? y.value : x.value;
    bool hidden = score <= 0.0f;
    decoded[3 * row] = (hidden ? -1.0f : (float)x.bin) / split_ratio;
    decoded[3 * row + 1] = (hidden ? -1.0f : (float)y.bin) / split_ratio;
    decoded[3 * row + 2] = x.broken || y.broken ? nanf("") : score;
}
