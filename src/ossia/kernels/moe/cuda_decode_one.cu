// The experts of one token, in two launches.
//
//   one_gate_up: h[j] = swiglu(G_e x + b), e the j-th of the TOPK largest logits     bf16
//   one_down:    out = x + sum_j share_j (D_e h[j] + b)                              bf16
//
// Bytes: TOPK experts' matrices at 4.25 bits a weight; for gpt-oss 35.3 MB and 17.6 MB.
//
// Launch shape of one_gate_up: a block for each expert and tile of 16 rows, whose UP_WARPS warps
// share the columns: 1,440 small blocks, so that the whole matrix is asked for at once.
// one_down: a block for each tile with all TOPK experts x DOWN_WARPS warps, so that the weighted
// sum needs no atomics; with DOWN_CLUSTER > 1 the experts of a tile are spread over a cluster of
// blocks that add up in the first one's shared memory, which balances 180 tiles over 132
// multiprocessors and lets all blocks wait for h with their weights loaded. Every block finds the
// experts itself from the logits: a kernel less.
//
// The matrix unit takes the weights as the M side; all eight columns of N hold the same vector, so
// nothing is masked. Weights stay E2M1 2^-126, the vector is multiplied by 2^100 to keep products in
// the normal range (it must be below 2^27; after an RMSNorm or a clamped SwiGLU it is), and each
// block of 32 columns is scaled in float32: at N = 8 that takes fewer instructions than
// scaling the weights.
//
// Macros: HIDDEN, INTERMEDIATE, EXPERTS, TOPK, UP_WARPS, UP_DEPTH, DOWN_WARPS, DOWN_DEPTH,
// DOWN_CLUSTER, UP_BLOCKS (of a multiprocessor, that registers must suffice for; 0: the compiler
// decides). A DEPTH is how many 16-byte loads of weights a lane has in flight.

constexpr u32 VECTOR_SCALE = 0x71807180u;         // 2^100, twice
constexpr float UNDO = 67108864.0f;               // 2^26 = 2^126 / 2^100
constexpr int LOGITS_A_LANE = (EXPERTS + WARP - 1) / WARP;

struct Choice {
  int expert[TOPK];
  float logit[TOPK];
};

// The `count` largest logits, largest first, of equals the lower number first; in every lane.
__device__ __forceinline__ Choice choose(const float *logits, int lane, int count) {
  u32 keys[LOGITS_A_LANE]; // unsigned integers in the order of the floats; 0 is below them all
#pragma unroll
  for (int i = 0; i < LOGITS_A_LANE; i++) {
    int expert = lane * LOGITS_A_LANE + i;
    keys[i] = 0;
    if (expert < EXPERTS) {
      u32 bits = __float_as_uint(logits[expert]);
      keys[i] = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    }
  }
  Choice choice = {};
#pragma unroll
  for (int r = 0; r < TOPK; r++) {
    if (r >= count) break;
    u32 best = keys[0];
    int place = 0;
#pragma unroll
    for (int i = 1; i < LOGITS_A_LANE; i++) {
      if (keys[i] > best) {
        best = keys[i];
        place = i;
      }
    }
    u32 most = __reduce_max_sync(ALL_LANES, best);
    int owner = __ffs(__ballot_sync(ALL_LANES, best == most)) - 1;
    int expert = owner * LOGITS_A_LANE + __shfl_sync(ALL_LANES, place, owner);
    // NaN logits must not lead out of the matrices.
    choice.expert[r] = expert < EXPERTS ? expert : EXPERTS - 1;
    choice.logit[r] = __uint_as_float(most & 0x80000000u ? most ^ 0x80000000u : ~most);
#pragma unroll
    for (int i = 0; i < LOGITS_A_LANE; i++) {
      if (lane == owner && i == place) keys[i] = 0;
    }
  }
  return choice;
}

__device__ __forceinline__ int nth(const Choice &choice, int n) {
  int expert = choice.expert[0];
#pragma unroll
  for (int r = 1; r < TOPK; r++) expert = n == r ? choice.expert[r] : expert;
  return expert;
}

__device__ __forceinline__ uint4 load_weights(const uint4 *from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__device__ __forceinline__ u32 load_scales(const u32 *from) {
  u32 v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}

// A warp's walk over CHUNKS chunks of one tile.
template <int CHUNKS, int DEPTH> struct Walk {
  static constexpr int VECTORS = CHUNKS * CHUNK / 8; // of 16 bytes, of the activations
  static constexpr int VECTORS_A_LANE = (VECTORS + WARP - 1) / WARP;
  uint4 words[DEPTH];
  u32 scales[(CHUNKS + 3) / 4]; // lane 4 g + t has g's scales of chunks t, t + 4, ...

  __device__ __forceinline__ void begin(const uint4 *blocks, const u32 *scale, int lane) {
#pragma unroll
    for (int i = 0; i < DEPTH; i++) words[i] = load_weights(blocks + i * WARP + lane);
#pragma unroll
    for (int i = 0; i < (CHUNKS + 3) / 4; i++) {
      int chunk = 4 * i + (lane & 3);
      scales[i] = chunk < CHUNKS ? load_scales(scale + chunk * 8 + (lane >> 2)) : 0;
    }
  }

  // Put the warp's part of the activations (bf16, in global memory) into its shared memory, times
  // VECTOR_SCALE, so that one 16-byte load gives lane t the B operands of two steps.
  static __device__ __forceinline__ void load(const uint4 *x, uint4 (&v)[VECTORS_A_LANE],
                                              int lane) {
#pragma unroll
    for (int i = 0; i < VECTORS_A_LANE; i++) {
      if (i * WARP + lane < VECTORS) v[i] = x[i * WARP + lane];
    }
  }

  static __device__ __forceinline__ void store(const uint4 (&v)[VECTORS_A_LANE], u32 *shared,
                                               int lane) {
#pragma unroll
    for (int i = 0; i < VECTORS_A_LANE; i++) {
      int n = i * WARP + lane; // columns 8 n .. 8 n + 7
      if (n < VECTORS) {
        u32 *to = shared + (n / 4) * 16 + (n & 3); // (n & 3): step in the pair, half of the step
        to[0] = multiply_bf16x2(v[i].x, VECTOR_SCALE);
        to[4] = multiply_bf16x2(v[i].y, VECTOR_SCALE);
        to[8] = multiply_bf16x2(v[i].z, VECTOR_SCALE);
        to[12] = multiply_bf16x2(v[i].w, VECTOR_SCALE);
      }
    }
    __syncwarp();
  }

  // Sums of rows g and g + 8, in every lane 4 g + t; to be multiplied by UNDO.
  __device__ __forceinline__ void finish(const uint4 *blocks, const u32 *shared, int lane,
                                         float &low, float &high) {
    const uint4 *vectors = reinterpret_cast<const uint4 *>(shared) + (lane & 3);
    low = high = 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      uint4 w = words[i % DEPTH];
      if (i + DEPTH < CHUNKS) words[i % DEPTH] = load_weights(blocks + (i + DEPTH) * WARP + lane);
      u32 s = __shfl_sync(ALL_LANES, scales[i / 4], (lane & 28) | (i & 3));
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint4 x = vectors[(2 * i + half) * 4];
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        u32 a[4];
        unpack(half ? w.z : w.x, a);
        multiply_add(d, a, x.x, x.y);
        unpack(half ? w.w : w.y, a);
        multiply_add(d, a, x.z, x.w);
        // 2^(code - 127): the code is the exponent of a float32.
        u32 scale_low = (half ? s << 7 : s << 23) & 0x7F800000u;
        u32 scale_high = (half ? s >> 1 : s << 15) & 0x7F800000u;
        low += __uint_as_float(scale_low) * d[0];
        high += __uint_as_float(scale_high) * d[2];
      }
    }
  }
};

extern "C" __global__ void
#if UP_BLOCKS > 0
__launch_bounds__(UP_WARPS *WARP, UP_BLOCKS)
#else
__launch_bounds__(UP_WARPS *WARP)
#endif
    one_gate_up(const uint4 *blocks, const u32 *scales, const u32 *bias, const uint4 *normed,
                const float *logits, u16 *h, float gain, float alpha, float limit) {
  constexpr int ROW_CHUNKS = HIDDEN / CHUNK, CHUNKS = ROW_CHUNKS / UP_WARPS;
  constexpr int TILES = 2 * INTERMEDIATE / TILE;
  using Columns = Walk<CHUNKS, UP_DEPTH>;
  __shared__ __align__(16) u32 vectors[UP_WARPS][CHUNKS * CHUNK / 2];
  __shared__ float sums[UP_WARPS][TILE];
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int choice = blockIdx.x / TILES, tile = blockIdx.x % TILES;

  wait_for_previous_kernel();
  // After the wait: one_down may then rely on what was written before this kernel.
  let_next_kernel_start();
  uint4 x[Columns::VECTORS_A_LANE];
  Columns::load(normed + warp * Columns::VECTORS, x, lane);
  // Weights wait for this: the blocks of the first experts, which start first, need not find all.
  int expert = nth(choose(logits, lane, choice + 1), choice);
  long long first = ((long long)expert * TILES + tile) * ROW_CHUNKS + warp * CHUNKS;
  Columns columns;
  columns.begin(blocks + first * WARP, scales + first * 8, lane);
  u32 biases = 0; // of a gate and its up
  if (threadIdx.x < 8) biases = bias[expert * INTERMEDIATE + tile * 8 + threadIdx.x];
  Columns::store(x, vectors[warp], lane);
  float gate, up;
  columns.finish(blocks + first * WARP, vectors[warp], lane, gate, up);
  if (lane % 4 == 0) {
    sums[warp][lane / 4] = gate;
    sums[warp][lane / 4 + 8] = up;
  }
  __syncthreads();
  if (threadIdx.x < 8) {
    gate = up = 0.0f;
#pragma unroll
    for (int w = 0; w < UP_WARPS; w++) {
      gate += sums[w][threadIdx.x];
      up += sums[w][threadIdx.x + 8];
    }
    gate = gate * (UNDO * gain) + from_bf16(biases & 0xFFFFu);
    up = up * (UNDO * gain) + from_bf16(biases >> 16);
    h[choice * INTERMEDIATE + tile * 8 + threadIdx.x] = to_bf16(swiglu(gate, up, alpha, limit));
  }
}

constexpr int DOWN_EXPERTS = TOPK / DOWN_CLUSTER; // of a block

extern "C" __global__ void
#if DOWN_CLUSTER > 1
__cluster_dims__(DOWN_CLUSTER, 1, 1)
#endif
    __launch_bounds__(DOWN_EXPERTS *DOWN_WARPS *WARP)
        one_down(const uint4 *blocks, const u32 *scales, const u16 *bias, const uint4 *h,
                 const float *logits, const u16 *x, u16 *out, float gain) {
  constexpr int ROW_CHUNKS = INTERMEDIATE / CHUNK, CHUNKS = ROW_CHUNKS / DOWN_WARPS;
  constexpr int TILES = HIDDEN / TILE, WARPS = DOWN_EXPERTS * DOWN_WARPS;
  using Columns = Walk<CHUNKS, DOWN_DEPTH>;
  __shared__ __align__(16) u32 vectors[WARPS][CHUNKS * CHUNK / 2];
  __shared__ float sums[WARPS][TILE];
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int rank = blockIdx.x % DOWN_CLUSTER, tile = blockIdx.x / DOWN_CLUSTER;
  int j = rank * DOWN_EXPERTS + warp / DOWN_WARPS, part = warp % DOWN_WARPS;

  let_next_kernel_start();
  // The logits may be read before the wait: one_gate_up, the only kernel that may still run, let
  // this one start after the kernels before it had ended.
  Choice choice = choose(logits, lane, TOPK);
  long long first = ((long long)nth(choice, j) * TILES + tile) * ROW_CHUNKS + part * CHUNKS;
  Columns columns;
  columns.begin(blocks + first * WARP, scales + first * 8, lane);
  float biases[DOWN_EXPERTS], residual = 0.0f;
  int row = tile * TILE + threadIdx.x % TILE;
  if (threadIdx.x < TILE) {
#pragma unroll
    for (int i = 0; i < DOWN_EXPERTS; i++)
      biases[i] = from_bf16(bias[nth(choice, rank * DOWN_EXPERTS + i) * HIDDEN + row]);
  }
  wait_for_previous_kernel();
  if (threadIdx.x < TILE) residual = from_bf16(x[row]);
  {
    uint4 v[Columns::VECTORS_A_LANE];
    Columns::load(h + j * (INTERMEDIATE / 8) + part * Columns::VECTORS, v, lane);
    Columns::store(v, vectors[warp], lane);
  }
  float low, high;
  columns.finish(blocks + first * WARP, vectors[warp], lane, low, high);
  if (lane % 4 == 0) {
    sums[warp][lane / 4] = low;
    sums[warp][lane / 4 + 8] = high;
  }
  __syncthreads();
  float mixed = 0.0f;
  if (threadIdx.x < TILE) {
    float total = 0.0f, weight[TOPK];
#pragma unroll
    for (int r = 0; r < TOPK; r++) total += weight[r] = __expf(choice.logit[r] - choice.logit[0]);
#pragma unroll
    for (int i = 0; i < DOWN_EXPERTS; i++) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < DOWN_WARPS; w++) sum += sums[i * DOWN_WARPS + w][threadIdx.x];
      float share = weight[i];
#pragma unroll
      for (int c = 1; c < DOWN_CLUSTER; c++)
        share = rank == c ? weight[c * DOWN_EXPERTS + i] : share;
      mixed += share * (sum * (UNDO * gain) + biases[i]);
    }
    mixed /= total;
  }
#if DOWN_CLUSTER > 1
  // Into the first block's shared memory; added there in the order of the ranks.
  __shared__ float parts[DOWN_CLUSTER][TILE];
  if (threadIdx.x < TILE) {
    u32 here = (u32)__cvta_generic_to_shared(&parts[rank][threadIdx.x]), there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(there) : "r"(here));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(mixed) : "memory");
  }
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  mixed = 0.0f;
  if (threadIdx.x < TILE) {
#pragma unroll
    for (int c = 0; c < DOWN_CLUSTER; c++) mixed += parts[c][threadIdx.x];
  }
#endif
  if (threadIdx.x < TILE && rank == 0) out[row] = to_bf16(residual + mixed);
}
