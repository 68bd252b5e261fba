// The experts of two to some hundred tokens, in two launches. Rows are the (token, choice)
// pairs sorted by expert; a work item is up to N rows of one expert.
//
//   few_gate_up: h[row] = swiglu(G_e normed[token of row] + b)      bf16 [pairs, INTERMEDIATE]
//   few_down:    y[pair of row] = D_e h[row] + b                    bf16 [pairs, HIDDEN]
//
// Bytes: the matrices of every expert in use once, 4.25 bits a weight; 8.8 MB and 4.4 MB an expert
// of gpt-oss. A unit reads its rows' activations from the L2 again, so it takes many weight rows.
//
// Launch shape: persistent blocks. A unit is a work item and up to BLOCK_TILES tiles of 16 weight
// rows; block b does units b, b + gridDim, ... An item is cut into so many units that all blocks
// get the same number: with full units, the last round would leave most multiprocessors idle.
// Units of the same weight rows stand side by side, so that where an expert has two items the
// second finds the weights in the L2.
//
// One lane copies weights and scales by the bulk copy engine, CHUNKS chunks a stage, into a ring of
// STAGES stages, so that STAGES - 1 of them (60 KB and more of weights) are on their way at any
// time and also from one unit to the next. Lanes that each start a bulk copy take turns of some 60
// cycles, which the 32 copies of a stage of 16 tiles have not; a single elected lane needs about
// ten. The scales of a tile are a sixteenth of its weights, and their copies cost as much as those
// of the weights; so they come for SCALE_STEPS stages at once, into one of SCALE_SLOTS places of
// their own. Rows of activations lie apart and are short, so other warps copy them in pieces of 16
// bytes.
// WARPS_M x WARPS_K warps multiply: a warp has TILES tiles, and every WARPS_K-th chunk; partial
// sums of the WARPS_K meet in shared memory.
//
// Rows and tiles that a unit does not have hold stale bytes in shared memory; they only reach
// elements of the product that nobody stores.
//
// Macros: HIDDEN, INTERMEDIATE, TOPK, N (a multiple of 8 up to 32), WARPS_M, WARPS_K, TILES, CHUNKS
// (divides HIDDEN / 64 and INTERMEDIATE / 64), STAGES, SCALE_STEPS (divides the stages of a unit),
// BLOCKS_A_SM.

constexpr int BLOCK_TILES = WARPS_M * TILES;
constexpr int CONSUMERS = WARPS_M * WARPS_K; // warps
constexpr int ROW_COPIERS = N > 16 ? 2 : 1;  // warps
constexpr int THREADS = (CONSUMERS + 1 + ROW_COPIERS) * WARP;
constexpr int TILE_BYTES = CHUNKS * WARP * 16; // of a stage
constexpr int ROW_BYTES = CHUNKS * CHUNK * 2;  // of a row of activations in a stage
constexpr int PITCH = ROW_BYTES + 16;          // an odd number of 16 bytes: no bank conflicts
constexpr int ROWS_AT = BLOCK_TILES * TILE_BYTES;
constexpr int STAGE_BYTES = ROWS_AT + N * PITCH;
constexpr int SCALE_BYTES = SCALE_STEPS * CHUNKS * 32; // of a tile in a slot
constexpr int SLOT_BYTES = BLOCK_TILES * SCALE_BYTES;
constexpr int SLOTS_AT = STAGES * STAGE_BYTES; // behind the ring
constexpr int SCALE_SLOTS = (STAGES - 1 + SCALE_STEPS - 1) / SCALE_STEPS + 1;
constexpr int PARTIAL_AT = SLOTS_AT + SCALE_SLOTS * SLOT_BYTES;
// Slots are written in turn, each at a stage whose `empty` barrier the copier has waited for. Be
// that the n-th stage of all; then every warp is done with stage n - STAGES and those before. The
// slot was last read for stage n - (SCALE_SLOTS - 1) SCALE_STEPS - 1, which must be among them.
static_assert(STAGES <= (SCALE_SLOTS - 1) * SCALE_STEPS + 1, "scales are read before overwritten");
constexpr int PIECES = CHUNK * 2 / 16;     // of 16 bytes, of a row in a chunk
constexpr int ROWS_A_COPY = WARP / PIECES; // that a warp copies by one instruction
constexpr int ROW_STEP = ROW_COPIERS * ROWS_A_COPY;
static_assert(N <= WARP, "a lane has the number of one row");
static_assert(N % ROW_STEP == 0, "the copying warps share the rows evenly");

struct Item { // as `Groups.work` has it
  int expert, first_row, rows, zero;
};

struct Place { // in the ring, and in the slots of the scales
  int stage = 0;
  u32 parity = 0;
  u32 moving = 0; // through the slots
  // Where this step's scales of the first tile are, in bytes from SLOTS_AT.
  __device__ __forceinline__ u32 scales() const {
    return SCALE_STEPS == 1 ? stage * SLOT_BYTES : moving;
  }
  __device__ __forceinline__ void advance(int step) { // from this step of a unit to the next
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
    moving += CHUNKS * 32;
    if ((step + 1) % SCALE_STEPS == 0) {
      moving += SLOT_BYTES - SCALE_BYTES;
      if (moving == SCALE_SLOTS * SLOT_BYTES) moving = 0;
    }
  }
};

template <bool GATE_UP> struct Experts {
  static constexpr int ROWS = GATE_UP ? 2 * INTERMEDIATE : HIDDEN;
  static constexpr int COLUMNS = GATE_UP ? HIDDEN : INTERMEDIATE;
  static constexpr int ALL_TILES = ROWS / TILE, ALL_CHUNKS = COLUMNS / CHUNK;
  static constexpr int STEPS = ALL_CHUNKS / CHUNKS; // stages of a unit
  static constexpr int UNITS = (ALL_TILES + BLOCK_TILES - 1) / BLOCK_TILES; // of a work item
  static_assert(STEPS % SCALE_STEPS == 0, "a unit begins with a slot of scales");

  const u8 *blocks, *scales;
  const u16 *bias;
  const u8 *input;
  const int *pair_of_row;
  const Item *work;
  u16 *out;
  float gain, alpha, limit;
  u32 ring, full, empty; // addresses in shared memory
  float *partial;        // [WARPS_K - 1][WARPS_M][TILES][N / 8][WARP][4]

  // Every block's units, and the tiles of a unit.
  struct Plan {
    int items, parts, units;

    __device__ __forceinline__ Plan(int num_work) {
      int blocks = gridDim.x;
      items = max(num_work, 1);
      int rounds = (items * UNITS + blocks - 1) / blocks;
      parts = min(rounds * blocks / items, ALL_TILES); // of an item: UNITS or more
      units = min(num_work, 1) * items * parts;
    }
    __device__ __forceinline__ int first_tile(int unit) const {
      return unit / items * ALL_TILES / parts;
    }
    __device__ __forceinline__ int end_tile(int unit) const {
      return (unit / items + 1) * ALL_TILES / parts;
    }
  };

  // --- the warps that copy

  __device__ __forceinline__ void copy_weights(const int *num_work) const {
    if (GATE_UP) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    // few_down may read the work items before the wait: few_gate_up, the only kernel that may still
    // run, let it start after the kernels before had ended.
    if (elect()) {
      Plan plan(*num_work);
      Place place;
      int next = 0; // expert
      if ((int)blockIdx.x < plan.units) next = work[blockIdx.x % plan.items].expert;
      for (int unit = blockIdx.x; unit < plan.units; unit += gridDim.x) {
        int first = plan.first_tile(unit), tiles = plan.end_tile(unit) - first;
        long long tile = (long long)next * ALL_TILES + first;
        if (unit + (int)gridDim.x < plan.units)
          next = work[(unit + gridDim.x) % plan.items].expert;
        const u8 *tile_blocks = blocks + tile * (ALL_CHUNKS * WARP * 16);
        const u8 *tile_scales = scales + tile * (ALL_CHUNKS * 32);
        for (int step = 0; step < STEPS; step++) {
          u32 to = ring + place.stage * STAGE_BYTES, barrier = full + place.stage * 8;
          bool with_scales = step % SCALE_STEPS == 0;
          wait_for(empty + place.stage * 8, place.parity ^ 1);
          arrive_and_expect(barrier, tiles * (TILE_BYTES + (with_scales ? SCALE_BYTES : 0)));
          if (with_scales) {
            copy_scales(ring + SLOTS_AT + place.scales(), tile_scales, tiles, barrier);
            tile_scales += SCALE_BYTES;
          }
#pragma unroll 8
          for (int m = 0; m < tiles; m++)
            copy(to + m * TILE_BYTES, tile_blocks + m * (ALL_CHUNKS * WARP * 16), TILE_BYTES,
                 barrier);
          tile_blocks += TILE_BYTES;
          place.advance(step);
        }
      }
    }
    __syncwarp();
    if (!GATE_UP) wait_for_previous_kernel();
  }

  __device__ __forceinline__ static void copy_scales(u32 to, const u8 *from, int tiles,
                                                     u32 barrier) {
    if constexpr (SCALE_STEPS == STEPS) { // those of all tiles lie in a row
      copy(to, from, tiles * SCALE_BYTES, barrier);
    } else {
#pragma unroll 2
      for (int m = 0; m < tiles; m++)
        copy(to + m * SCALE_BYTES, from + m * (ALL_CHUNKS * 32), SCALE_BYTES, barrier);
    }
  }

  // Every ROW_COPIERS-th group of ROWS_A_COPY rows.
  __device__ __forceinline__ void copy_rows(const int *num_work, int copier, int lane) const {
    wait_for_previous_kernel();
    Plan plan(*num_work);
    Place place;
    int first = copier * ROWS_A_COPY + lane / PIECES, piece = lane % PIECES * 16;
    for (int unit = blockIdx.x; unit < plan.units; unit += gridDim.x) {
      Item item = work[unit % plan.items];
      const u8 *from[N / ROW_STEP];
#pragma unroll
      for (int i = 0; i < N / ROW_STEP; i++) {
        int row = item.first_row + min(first + i * ROW_STEP, item.rows - 1);
        if (GATE_UP) row = pair_of_row[row] / TOPK;
        from[i] = input + (long long)row * (COLUMNS * 2) + piece;
      }
      for (int step = 0; step < STEPS; step++) {
        u32 to = ring + place.stage * STAGE_BYTES + ROWS_AT + first * PITCH + piece;
        wait_for(empty + place.stage * 8, place.parity ^ 1);
#pragma unroll
        for (int i = 0; i < N / ROW_STEP; i++) {
          if (first + i * ROW_STEP < item.rows) {
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
              copy_piece(to + i * ROW_STEP * PITCH + c * CHUNK * 2, from[i] + c * CHUNK * 2);
          }
          from[i] += ROW_BYTES;
        }
        arrive_after_pieces(full + place.stage * 8);
        place.advance(step);
      }
    }
  }

  // --- the warps that multiply

  // One unit with columns 0 .. 8 NS - 1.
  template <int NS>
  __device__ __forceinline__ void multiply(Item item, int first_tile, int end_tile, Place &place,
                                           int warp_m, int warp_k, int lane) const {
    // With a single product at a time, two sums halve the chain of dependent instructions. So the last
    // bit of a row's result can depend on how many rows share its item.
    constexpr int SUMS = TILES * NS == 1 ? 2 : 1;
    float sums[SUMS][TILES][NS][4] = {};
    bool active = first_tile < end_tile;
    int pair = 0; // of row `lane`
    if (!GATE_UP) pair = pair_of_row[item.first_row + min(lane, item.rows - 1)];
    u32 biases[TILES];
#pragma unroll
    for (int m = 0; m < TILES; m++) {
      biases[m] = 0;
      if (first_tile + m < end_tile) {
        const u16 *from = bias + (long long)item.expert * ROWS + (first_tile + m) * TILE;
        int g = lane / 4;
        biases[m] = GATE_UP ? reinterpret_cast<const u32 *>(from)[g] : from[g] | from[g + 8] << 16;
      }
    }
    u32 words_at = warp_m * TILES * TILE_BYTES + lane * 16;
    u32 scales_at = ring + SLOTS_AT + warp_m * TILES * SCALE_BYTES + lane / 4 * 4;
    u32 rows_at = ROWS_AT + lane % 8 * PITCH + lane / 8 * 16;
    for (int step = 0; step < STEPS; step++) {
      wait_for(full + place.stage * 8, place.parity);
      u32 base = ring + place.stage * STAGE_BYTES;
      // Chunks of the whole row go to the WARPS_K in turn.
      int offset = CHUNKS % WARPS_K == 0
                       ? warp_k
                       : (warp_k + step * (WARPS_K - CHUNKS % WARPS_K)) % WARPS_K;
      if (active) {
#pragma unroll
        for (int i = 0; i < (CHUNKS + WARPS_K - 1) / WARPS_K; i++) {
          int chunk = i * WARPS_K + offset;
          if (CHUNKS % WARPS_K == 0 || chunk < CHUNKS) {
            uint4 words[TILES];
            u32 scale[TILES];
#pragma unroll
            for (int m = 0; m < TILES; m++) {
              words[m] = load_words(base + words_at + m * TILE_BYTES + chunk * (WARP * 16));
              scale[m] = load_word(scales_at + place.scales() + m * SCALE_BYTES + chunk * 32);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
              u32 a[2][TILES][4];
#pragma unroll
              for (int m = 0; m < TILES; m++) {
                u32 low = multiplier(scale[m], 2 * half), high = multiplier(scale[m], 2 * half + 1);
#pragma unroll
                for (int s = 0; s < 2; s++) {
                  unpack(half ? (s ? words[m].w : words[m].z) : (s ? words[m].y : words[m].x),
                         a[s][m]);
                  a[s][m][0] = multiply_bf16x2(a[s][m][0], low);
                  a[s][m][1] = multiply_bf16x2(a[s][m][1], high);
                  a[s][m][2] = multiply_bf16x2(a[s][m][2], low);
                  a[s][m][3] = multiply_bf16x2(a[s][m][3], high);
                }
              }
              uint4 x[NS];
#pragma unroll
              for (int j = 0; j < NS; j++)
                x[j] = load_matrices(base + rows_at + j * 8 * PITCH + chunk * 128 + half * 64);
#pragma unroll
              for (int s = 0; s < 2; s++) {
#pragma unroll
                for (int m = 0; m < TILES; m++) {
#pragma unroll
                  for (int j = 0; j < NS; j++)
                    multiply_add(sums[s % SUMS][m][j], a[s][m], s ? x[j].z : x[j].x,
                                 s ? x[j].w : x[j].y);
                }
              }
            }
          }
        }
      }
      __syncwarp();
      if (lane == 0) arrive(empty + place.stage * 8);
      place.advance(step);
    }
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
      for (int j = 0; j < NS; j++) {
#pragma unroll
        for (int i = 0; i < 4 && SUMS == 2; i++) sums[0][m][j][i] += sums[SUMS - 1][m][j][i];
      }
    }
    add_partial<NS>(sums[0], warp_m, warp_k, lane);
    if (warp_k == 0 && active) store<NS>(sums[0], biases, item, pair, first_tile, end_tile, lane);
  }

  // Sum over the warps that share tiles, into the first of them.
  template <int NS>
  __device__ __forceinline__ void add_partial(float (&sums)[TILES][NS][4], int warp_m, int warp_k,
                                              int lane) const {
    if (WARPS_K == 1) return;
    float4 *mine = reinterpret_cast<float4 *>(partial) + warp_m * (TILES * N / 8 * WARP) + lane;
    constexpr int NEXT = WARPS_M * TILES * N / 8 * WARP; // to the next warp_k's
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
      for (int j = 0; j < NS; j++) {
        float(&d)[4] = sums[m][j];
        if (warp_k > 0)
          mine[(warp_k - 1) * NEXT + (m * NS + j) * WARP] = make_float4(d[0], d[1], d[2], d[3]);
      }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * WARP) : "memory");
    if (warp_k == 0) {
#pragma unroll
      for (int m = 0; m < TILES; m++) {
#pragma unroll
        for (int j = 0; j < NS; j++) {
#pragma unroll
          for (int w = 0; w < WARPS_K - 1; w++) {
            float4 d = mine[w * NEXT + (m * NS + j) * WARP];
            sums[m][j][0] += d.x;
            sums[m][j][1] += d.y;
            sums[m][j][2] += d.z;
            sums[m][j][3] += d.w;
          }
        }
      }
    }
    // Read before the next unit writes.
    asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS * WARP) : "memory");
  }

  template <int NS>
  __device__ __forceinline__ void store(const float (&sums)[TILES][NS][4],
                                        const u32 (&biases)[TILES], Item item, int pair,
                                        int first_tile, int end_tile, int lane) const {
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < NS; j++) {
      // Transposed, a lane has neighbours of one row, and not elements of two rows.
      int n = j * 8 + g;
      long long row = item.first_row + n;
      if (!GATE_UP) row = __shfl_sync(ALL_LANES, pair, n);
      u16 *to = out + row * (GATE_UP ? INTERMEDIATE : HIDDEN);
#pragma unroll
      for (int m = 0; m < TILES; m++) {
        float values[4]; // of columns 2 t, 2 t + 1; low rows of the tile, then high rows
#pragma unroll
        for (int i = 0; i < 4; i++)
          values[i] =
              sums[m][j][i] * gain + from_bf16(i < 2 ? biases[m] & 0xFFFFu : biases[m] >> 16);
        bool mine = n < item.rows && first_tile + m < end_tile;
        if (GATE_UP) {
          u32 two = transpose(bf16x2(swiglu(values[0], values[2], alpha, limit),
                                     swiglu(values[1], values[3], alpha, limit)));
          if (mine) *reinterpret_cast<u32 *>(to + (first_tile + m) * 8 + 2 * t) = two;
        } else {
          // Even lanes store four low rows of the tile, odd lanes four high rows.
          u32 low = transpose(bf16x2(values[0], values[1]));
          u32 high = transpose(bf16x2(values[2], values[3]));
          u32 other = __shfl_xor_sync(ALL_LANES, t % 2 ? low : high, 1);
          uint2 four = t % 2 ? make_uint2(other, high) : make_uint2(low, other);
          int first = t % 2 ? 8 + 2 * (t - 1) : 2 * t;
          if (mine) *reinterpret_cast<uint2 *>(to + (first_tile + m) * TILE + first) = four;
        }
      }
    }
  }

  // As many columns as the item has rows, each number its own loop.
  template <int NS>
  __device__ __forceinline__ void multiply_rows(Item item, int first_tile, int end_tile,
                                                Place &place, int warp_m, int warp_k,
                                                int lane) const {
    if constexpr (NS < N / 8) {
      if (item.rows > NS * 8) {
        multiply_rows<NS + 1>(item, first_tile, end_tile, place, warp_m, warp_k, lane);
        return;
      }
    }
    multiply<NS>(item, first_tile, end_tile, place, warp_m, warp_k, lane);
  }

  __device__ __forceinline__ void multiply_all(const int *num_work, int warp, int lane) const {
    wait_for_previous_kernel();
    Plan plan(*num_work);
    int warp_m = warp % WARPS_M, warp_k = warp / WARPS_M;
    Place place;
    Item next = {};
    if ((int)blockIdx.x < plan.units) next = work[blockIdx.x % plan.items];
    for (int unit = blockIdx.x; unit < plan.units; unit += gridDim.x) {
      Item item = next;
      if (unit + (int)gridDim.x < plan.units) next = work[(unit + gridDim.x) % plan.items];
      multiply_rows<1>(item, plan.first_tile(unit) + warp_m * TILES, plan.end_tile(unit), place,
                       warp_m, warp_k, lane);
    }
  }
};

template <bool GATE_UP>
__device__ __forceinline__ void run(const u8 *blocks, const u8 *scales, const u16 *bias,
                                    const u8 *input, const int *pair_of_row, const Item *work,
                                    const int *num_work, u16 *out, float gain, float alpha,
                                    float limit) {
  extern __shared__ __align__(128) u8 memory[];
  __shared__ __align__(8) u64 barriers[2 * STAGES];
  u32 full = (u32)__cvta_generic_to_shared(barriers), empty = full + STAGES * 8;
  u32 ring = (u32)__cvta_generic_to_shared(memory);
  Experts<GATE_UP> experts = {blocks, scales, bias,  input, pair_of_row, work, out,
                              gain,   alpha,  limit, ring,  full,        empty,
                              reinterpret_cast<float *>(memory + PARTIAL_AT)};
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      init_barrier(full + s * 8, 1 + ROW_COPIERS * WARP);
      init_barrier(empty + s * 8, CONSUMERS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (warp < CONSUMERS) experts.multiply_all(num_work, warp, lane);
  else if (warp == CONSUMERS) experts.copy_weights(num_work);
  else experts.copy_rows(num_work, warp - CONSUMERS - 1, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_A_SM)
    few_gate_up(const u8 *blocks, const u8 *scales, const u16 *bias, const u8 *normed,
                const int *pair_of_row, const Item *work, const int *num_work, u16 *h, float gain,
                float alpha, float limit) {
  run<true>(blocks, scales, bias, normed, pair_of_row, work, num_work, h, gain, alpha, limit);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_A_SM)
    few_down(const u8 *blocks, const u8 *scales, const u16 *bias, const u8 *h,
             const int *pair_of_row, const Item *work, const int *num_work, u16 *y, float gain) {
  let_next_kernel_start();
  run<false>(blocks, scales, bias, h, pair_of_row, work, num_work, y, gain, 0.0f, 0.0f);
}
