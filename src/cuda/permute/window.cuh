// Rows at any address: 16 bytes at a time all the same. A row is cut into windows
// of 16 bytes at 16-byte boundaries of where it is written; what belongs there is
// read from another address as three aligned pieces and shifted together.
#pragma once

#include "cuda/permute/rows.cuh"

namespace gg::cuda {

// The rows of a matrix whose windows may all be read as whole pieces, which reach
// up to 23 bytes beyond a row: all but the first and last few, since outside of
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

// The bytes of a window that belong to its row: [from, to).
struct WindowPart {
  int from;
  int to;

  __device__ __forceinline__ static WindowPart whole() { return {0, kVectorBytes}; }
  __device__ __forceinline__ bool is_whole() const { return from == 0 && to == kVectorBytes; }
  __device__ __forceinline__ bool is_empty() const { return from >= to; }
};

// Where the windows of a row lie: whole ones from its first 16-byte boundary on, a head of
// fewer bytes before and a tail after them.
struct Windows {
  int first;       // bytes from the row to that boundary, which may lie beyond a short row
  int num_whole;   // one less than most_whole(), or as many
  int edge_bytes;  // of head and tail together

  __device__ __forceinline__ Windows(const char* row, int64_t bytes)
      : Windows(static_cast<int>(-reinterpret_cast<uintptr_t>(row) % kVectorBytes), bytes) {}
  __device__ __forceinline__ Windows(int first, int64_t bytes) : first(first) {
    const int most = static_cast<int>(bytes / kVectorBytes);
    const int rest = static_cast<int>(bytes % kVectorBytes);
    num_whole = most - (first > rest && most > 0 ? 1 : 0);
    edge_bytes = static_cast<int>(bytes - static_cast<int64_t>(num_whole) * kVectorBytes);
  }
  __device__ __forceinline__ WindowPart head() const {
    const int from = kVectorBytes - first;
    return {from, min(kVectorBytes, from + edge_bytes)};
  }
  __device__ __forceinline__ WindowPart tail() const { return {0, edge_bytes - first}; }
};

// The most whole windows that a row of so many bytes can have.
inline int64_t most_whole(int64_t bytes) { return bytes / kVectorBytes; }

// How 16 bytes at any address are put together from three aligned pieces of 8: the same for
// all windows of a row. Two vectors of 16 would cost 6 more selections and 2 more registers,
// five words more of L1's time.
struct Funnel {
  static constexpr uint32_t kSkipsWord = 1u << 31;

  uint32_t bits;  // of a shift to the right, and kSkipsWord

  __device__ __forceinline__ static Funnel of(const char* address) {
    const uint32_t at = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address));
    return {(at & 3) * 8 | ((at & 4) != 0 ? kSkipsWord : 0)};
  }
};

// The three pieces. They may be read by neighbours again, so they stay in L1.
struct RawWindow {
  uint2 low, middle, high;
};

__device__ __forceinline__ const char* piece_at(const char* address) {
  return address - reinterpret_cast<uintptr_t>(address) % 8;
}

__device__ __forceinline__ RawWindow load_raw(const char* piece) {
  return {ptx::load8(piece), ptx::load8(piece + 8), ptx::load8(piece + 16)};
}

__device__ __forceinline__ uint4 shifted(const RawWindow& raw, Funnel funnel) {
  const bool one = static_cast<int32_t>(funnel.bits) < 0;
  const uint32_t a0 = one ? raw.low.y : raw.low.x;
  const uint32_t a1 = one ? raw.middle.x : raw.low.y;
  const uint32_t a2 = one ? raw.middle.y : raw.middle.x;
  const uint32_t a3 = one ? raw.high.x : raw.middle.y;
  const uint32_t a4 = one ? raw.high.y : raw.high.x;
  return make_uint4(__funnelshift_r(a0, a1, funnel.bits), __funnelshift_r(a1, a2, funnel.bits),
                    __funnelshift_r(a2, a3, funnel.bits), __funnelshift_r(a3, a4, funnel.bits));
}

// 16 bytes at any address, where whole pieces may be read.
__device__ __forceinline__ uint4 load_window(const char* address) {
  return shifted(load_raw(piece_at(address)), Funnel::of(address));
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
