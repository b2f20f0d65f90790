// Rows at any address: 16 bytes at a time all the same. A row is cut into windows
// of 16 bytes at 16-byte boundaries of where it is written; what belongs there is
// read from another address as two aligned vectors and shifted together.
#pragma once

#include "cuda/permute/rows.cuh"

namespace gg::cuda {

// The rows of a matrix whose windows may all be read as whole vectors, which reach
// up to 31 bytes beyond a row: all but the first and last few, since outside of
// the matrix nothing is read.
struct InnerRows {
  int64_t first = 0;
  int64_t end = 0;

  InnerRows() = default;
  // Of num_rows rows `pitch` bytes apart.
  InnerRows(int64_t num_rows, int64_t pitch) {
    constexpr int64_t kReach = 32;
    if (pitch <= 0) return;
    first = (kReach + pitch - 1) / pitch;
    end = num_rows - first;
  }
  __device__ __forceinline__ bool contain(int64_t row) const { return row >= first && row < end; }
};

// Where the windows of a row lie.
struct Windows {
  char* first;       // 16-byte boundary at or before the row
  int64_t row_at;    // bytes from there to the row
  int64_t row_ends;  // and to its end

  __device__ __forceinline__ Windows(char* row, int64_t bytes) {
    row_at = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % kVectorBytes);
    first = row - row_at;
    row_ends = row_at + bytes;
  }
  __device__ __forceinline__ int64_t count() const {
    return (row_ends + kVectorBytes - 1) / kVectorBytes;
  }
};

// The most windows that a row of so many bytes can have.
inline int64_t max_windows(int64_t bytes) { return bytes / kVectorBytes + 2; }

// The bytes of a window that belong to its row: [from, to).
struct WindowPart {
  int from;
  int to;

  __device__ __forceinline__ WindowPart(int from, int to) : from(from), to(to) {}
  __device__ __forceinline__ static WindowPart whole() { return {0, kVectorBytes}; }
  __device__ __forceinline__ WindowPart(const Windows& windows, int64_t window) {
    const int64_t begin = windows.row_at - window * kVectorBytes;
    const int64_t end = windows.row_ends - window * kVectorBytes;
    from = begin > 0 ? static_cast<int>(begin) : 0;
    to = end < kVectorBytes ? static_cast<int>(end) : kVectorBytes;
  }
  __device__ __forceinline__ bool is_whole() const { return from == 0 && to == kVectorBytes; }
};

// The two vectors that hold the 16 bytes at an address. Both are loaded at once
// and may be read by neighbours again, so they stay in L1.
struct RawWindow {
  uint4 low;
  uint4 high;
};

__device__ __forceinline__ RawWindow load_raw(const char* address) {
  const uintptr_t shift = reinterpret_cast<uintptr_t>(address) % kVectorBytes;
  const uint4* low = reinterpret_cast<const uint4*>(address - shift);
  RawWindow raw;
  raw.low = *low;
  raw.high = *(shift != 0 ? low + 1 : low);
  return raw;
}

__device__ __forceinline__ uint4 shifted(const RawWindow& raw, const char* address) {
  const unsigned shift = reinterpret_cast<uintptr_t>(address) % kVectorBytes;
  const bool two = (shift & 8) != 0;  // words to skip, then bits
  const bool one = (shift & 4) != 0;
  const uint32_t a0 = two ? raw.low.z : raw.low.x;
  const uint32_t a1 = two ? raw.low.w : raw.low.y;
  const uint32_t a2 = two ? raw.high.x : raw.low.z;
  const uint32_t a3 = two ? raw.high.y : raw.low.w;
  const uint32_t a4 = two ? raw.high.z : raw.high.x;
  const uint32_t a5 = two ? raw.high.w : raw.high.y;
  const uint32_t b0 = one ? a1 : a0;
  const uint32_t b1 = one ? a2 : a1;
  const uint32_t b2 = one ? a3 : a2;
  const uint32_t b3 = one ? a4 : a3;
  const uint32_t b4 = one ? a5 : a4;
  const unsigned bits = (shift & 3) * 8;
  return make_uint4(__funnelshift_r(b0, b1, bits), __funnelshift_r(b1, b2, bits),
                    __funnelshift_r(b2, b3, bits), __funnelshift_r(b3, b4, bits));
}

__device__ __forceinline__ uint4 to_vector(uint64_t low, uint64_t high) {
  return make_uint4(static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
                    static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32));
}

// The same byte by byte, zeros outside [from, to): for the rows at a tensor's edges.
__device__ __forceinline__ uint4 load_bytes(const char* address, const WindowPart& part) {
  uint64_t low = 0;
  uint64_t high = 0;
#pragma unroll 1
  for (int i = part.from; i < part.to; ++i) {
    const uint64_t byte = static_cast<unsigned char>(address[i]);
    (i < 8 ? low : high) |= byte << (i % 8 * 8);
  }
  return to_vector(low, high);
}

// The same bytes with zeros outside [from, to).
__device__ __forceinline__ uint4 masked(uint4 v, const WindowPart& part) {
  const auto bits_below = [](int bytes) {  // of 64
    return bytes <= 0 ? 0 : bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << bytes * 8) - 1;
  };
  const uint64_t low = bits_below(part.to) & ~bits_below(part.from);
  const uint64_t high = bits_below(part.to - 8) & ~bits_below(part.from - 8);
  const uint4 mask = to_vector(low, high);
  return make_uint4(v.x & mask.x, v.y & mask.y, v.z & mask.z, v.w & mask.w);
}

// The next bytes of a window as one piece, if it lies at a multiple of its size and
// ends at or before `to`. `low` and `high` hold the bytes from `at` on.
template <typename Piece>
__device__ __forceinline__ void store_piece(char* address, int& at, int to, uint64_t& low,
                                            uint64_t& high) {
  constexpr int kBytes = sizeof(Piece);
  if (at % kBytes != 0 || at + kBytes > to) return;
  *reinterpret_cast<Piece*>(address + at) = static_cast<Piece>(low);
  at += kBytes;
  if constexpr (kBytes == 8) {
    low = high;
  } else {
    low = low >> 8 * kBytes | high << (64 - 8 * kBytes);
    high >>= 8 * kBytes;
  }
}

// The bytes of a window that belong to its row, in at most seven pieces: growing up to
// a boundary of 8 bytes, then shrinking. Not evict-first: the neighbouring row's
// bytes are to join them in L2.
__device__ __forceinline__ void store_part(char* address, uint4 v, const WindowPart& part) {
  uint64_t low = v.x | static_cast<uint64_t>(v.y) << 32;
  uint64_t high = v.z | static_cast<uint64_t>(v.w) << 32;
  int at = part.from;
  if (at >= 8) low = high;
  const int bits = at % 8 * 8;
  if (bits != 0) low = low >> bits | (at >= 8 ? 0 : high << (64 - bits));
  high = at >= 8 ? 0 : high >> bits;
  if (at % 2 != 0) store_piece<uint8_t>(address, at, part.to, low, high);
  if (at % 4 != 0) store_piece<uint16_t>(address, at, part.to, low, high);
  if (at % 8 != 0) store_piece<uint32_t>(address, at, part.to, low, high);
  store_piece<uint64_t>(address, at, part.to, low, high);
  store_piece<uint32_t>(address, at, part.to, low, high);
  store_piece<uint16_t>(address, at, part.to, low, high);
  store_piece<uint8_t>(address, at, part.to, low, high);
}

// Writes the window at a 16-byte boundary, its row's bytes only.
__device__ __forceinline__ void store_window(char* address, uint4 v, const WindowPart& part,
                                             uint64_t policy) {
  if (part.is_whole()) {
    ptx::store_evict_first(address, v, policy);
  } else {
    store_part(address, v, part);
  }
}

}  // namespace gg::cuda
