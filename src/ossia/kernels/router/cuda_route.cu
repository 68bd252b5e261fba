// Routing and grouping: from the residual stream to pairs sorted by expert.
//
//   route_logits:      n = x / sqrt(mean(x^2) + eps) * norm, rounded;  logits = n R^T + b in float32
//   route_choose:      the TOPK largest of each token, ties to the lower expert; their softmax;
//                      the sort of all pairs (token * TOPK + choice) by expert, for few tokens
//   route_choose_part: the choice alone, and how many pairs of PART tokens each expert has
//   route_place:       the sort, for any number of tokens, from those counts
//
// Bytes: 11.5 KB a token of gpt-oss, and the router, 184 or 737 KB, from the L2 once a block.
//
// Launch shape of route_logits: a block for ROWS experts and tiles of TOKENS tokens, whose warps
// share the columns. Its part of the router stays in registers from before the wait; the next tile
// of tokens is on its way while one is multiplied. Both operands go from memory to the matrix unit
// without shared memory: the order of the columns within a product is free, so a lane takes eight
// neighbouring ones, 16 bytes, of its row of either operand, and they make two steps of 16 columns.
//
// route_choose is a single block, because all that follows depends on every choice: a warp takes a
// token at a time, an expert or four to a lane, and finds the largest by integer maxima over the
// warp. A bit for each (expert, token) in shared memory then says everything about the sort: the
// row of a pair is the number of bits before it, so no order of execution shows in the results.
//
// Macros: HIDDEN, EXPERTS, TOPK, WARPS (of route_logits; divides HIDDEN / 32).

constexpr int ROWS = 16;   // experts of a block of route_logits
constexpr int TOKENS = 8;  // in one product
constexpr int PIECE = 32;  // columns that the four lanes of a row hold, 16 bytes each
constexpr int OWN = HIDDEN / PIECE / WARPS; // pieces of a warp
constexpr int ROW_WORDS = HIDDEN / 8;       // 16-byte words of a row
constexpr int GROUPS = EXPERTS / ROWS;      // blocks that share a tile of tokens
constexpr int LOGITS_A_LANE = (EXPERTS + WARP - 1) / WARP;
constexpr int MOST_TOKENS = 512; // of route_choose
constexpr int PART = 128;        // tokens of a block of route_choose_part and route_place
constexpr int AT_ONCE = 2;       // tokens that a warp chooses for at a time, to hide latencies

static_assert(HIDDEN % (PIECE * WARPS) == 0, "warps must share the columns evenly");
static_assert(EXPERTS % ROWS == 0, "blocks have 16 experts");

// Two bfloat16 in the low and high half, each times scale and its factor, rounded again.
__device__ __forceinline__ u32 norm_pair(u32 x, u32 factor, float scale) {
  float low = __uint_as_float(x << 16) * scale * __uint_as_float(factor << 16);
  float high = __uint_as_float(x & 0xFFFF0000u) * scale * __uint_as_float(factor & 0xFFFF0000u);
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ __forceinline__ float square_pair(u32 x) {
  float low = __uint_as_float(x << 16), high = __uint_as_float(x & 0xFFFF0000u);
  return low * low + high * high;
}

// The logits of this block's experts and tiles of tokens: keep(tile, token of the tile, expert,
// logit), also for tokens past the end. Writes the normed rows.
template <typename Keep>
__device__ __forceinline__ void find_logits(const uint4 *x, const uint4 *norm, const uint4 *weight,
                                            const u16 *bias, uint4 *normed, int count, float eps,
                                            Keep keep) {
  __shared__ uint4 factors[ROW_WORDS];
  __shared__ float squares[WARPS][TOKENS];
  __shared__ float partial[WARPS][TOKENS][ROWS + 1];
  __shared__ float biases[ROWS];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int row = lane / 4, word = warp * OWN * 4 + lane % 4; // words of a lane: word + 4 i
  const int group = blockIdx.x, tiles = (count + TOKENS - 1) / TOKENS;
  let_next_kernel_start();

  uint4 low[OWN], high[OWN]; // experts row and row + 8
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    low[i] = weight[(group * ROWS + row) * ROW_WORDS + word + 4 * i];
    high[i] = weight[(group * ROWS + row + 8) * ROW_WORDS + word + 4 * i];
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < ROW_WORDS; i += WARPS * WARP) factors[i] = norm[i];
  if (threadIdx.x < ROWS) biases[threadIdx.x] = from_bf16(bias[group * ROWS + threadIdx.x]);
  wait_for_previous_kernel();

  // Rows past the end repeat the last one and are not stored.
  uint4 value[OWN];
  const uint4 *own = x + min(int(blockIdx.y) * TOKENS + row, count - 1) * (long long)ROW_WORDS + word;
#pragma unroll
  for (int i = 0; i < OWN; i++) value[i] = own[4 * i];
#pragma unroll 1
  for (int tile = blockIdx.y; tile < tiles; tile += gridDim.y) {
    const int next = tile + int(gridDim.y);
    int more = next < tiles;
    asm volatile("" : "+r"(more)); // one loop with predicates, not two loops
    own = x + min(next * TOKENS + row, count - 1) * (long long)ROW_WORDS + word;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      sum += square_pair(value[i].x) + square_pair(value[i].y);
      sum += square_pair(value[i].z) + square_pair(value[i].w);
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    if (lane % 4 == 0) squares[warp][row] = sum;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) total += squares[w][row];
    const float scale = rsqrtf(total * (1.0f / HIDDEN) + eps);

    float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0};
    const long long token = tile * TOKENS + row;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const uint4 factor = factors[word + 4 * i];
      // Unpack again: what was unpacked for the squares would take twice the registers.
      asm volatile("" : "+r"(value[i].x), "+r"(value[i].y), "+r"(value[i].z), "+r"(value[i].w)::"memory");
      uint4 v;
      v.x = norm_pair(value[i].x, factor.x, scale);
      v.y = norm_pair(value[i].y, factor.y, scale);
      v.z = norm_pair(value[i].z, factor.z, scale);
      v.w = norm_pair(value[i].w, factor.w, scale);
      const u32 first[4] = {low[i].x, high[i].x, low[i].y, high[i].y};
      const u32 second[4] = {low[i].z, high[i].z, low[i].w, high[i].w};
      if (more) value[i] = own[4 * i];
      multiply_add(even, first, v.x, v.y);
      multiply_add(odd, second, v.z, v.w);
      // The blocks that share a tile share the writing of its rows.
      if (i % GROUPS == group && token < count) normed[token * ROW_WORDS + word + 4 * i] = v;
    }
    const int column = lane % 4 * 2; // this lane's tokens in the product, and the next
    partial[warp][column][row] = even[0] + odd[0];
    partial[warp][column + 1][row] = even[1] + odd[1];
    partial[warp][column][row + 8] = even[2] + odd[2];
    partial[warp][column + 1][row + 8] = even[3] + odd[3];
    __syncthreads();
    for (int i = threadIdx.x; i < TOKENS * ROWS; i += WARPS * WARP) {
      const int of_row = i % ROWS;
      float logit = biases[of_row];
#pragma unroll
      for (int w = 0; w < WARPS; w++) logit += partial[w][i / ROWS][of_row];
      keep(tile, i / ROWS, group * ROWS + of_row, logit);
    }
  }
}

extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1)
    route_logits(const uint4 *x, const uint4 *norm, const uint4 *weight, const u16 *bias,
                 uint4 *normed, float *logits, int count, float eps) {
  find_logits(x, norm, weight, bias, normed, count, eps,
              [=](int tile, int of_tile, int expert, float logit) {
                const int token = tile * TOKENS + of_tile;
                if (token < count) logits[token * EXPERTS + expert] = logit;
              });
}

// --- the choice

// Unsigned integers in the order of the floats; NaN counts as the least of them, and all are above
// 0. Equal floats give equal integers: -0 becomes 0.
__device__ __forceinline__ u32 key_of(float logit) {
  u32 bits = __float_as_uint(logit == logit ? logit + 0.0f : -__int_as_float(0x7F800000));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float float_of(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// Chooses for `tokens` tokens from first_token on: shares and choices to memory, choices also to
// `own_chosen`, and a bit to members[token / 32][expert], which must be zero before; either may be
// null.
__device__ __forceinline__ void choose(const float *logits, float *shares, int *chosen,
                                       int first_token, int tokens, u32 (*members)[EXPERTS],
                                       u8 *own_chosen) {
  const int lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
  for (int start = threadIdx.x / WARP * AT_ONCE; start < tokens; start += warps * AT_ONCE) {
    u32 keys[AT_ONCE][LOGITS_A_LANE]; // 0: taken, or no expert
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const int token = first_token + min(start + u, tokens - 1);
#pragma unroll
      for (int q = 0; q < LOGITS_A_LANE; q++) {
        const int expert = lane * LOGITS_A_LANE + q;
        keys[u][q] = expert < EXPERTS ? key_of(logits[token * EXPERTS + expert]) : 0;
      }
    }
    float largest[AT_ONCE], total[AT_ONCE], own_part[AT_ONCE];
    int own_expert[AT_ONCE]; // of the choice that this lane writes
#pragma unroll
    for (int r = 0; r < TOPK; r++) {
      u32 best[AT_ONCE], most[AT_ONCE];
      int place[AT_ONCE];
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        best[u] = keys[u][0];
        place[u] = 0;
#pragma unroll
        for (int q = 1; q < LOGITS_A_LANE; q++) {
          if (keys[u][q] > best[u]) {
            best[u] = keys[u][q];
            place[u] = q;
          }
        }
      }
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) most[u] = __reduce_max_sync(ALL_LANES, best[u]);
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        const int owner = __ffs(__ballot_sync(ALL_LANES, best[u] == most[u])) - 1;
        int expert = owner;
        if (LOGITS_A_LANE > 1) {
          expert = owner * LOGITS_A_LANE + __shfl_sync(ALL_LANES, place[u], owner);
        }
        const float logit = float_of(most[u]);
        if (r == 0) largest[u] = logit, total[u] = 0;
        const float part = __expf(logit - largest[u]);
        total[u] += part;
        if (lane == r || r == 0) own_expert[u] = expert, own_part[u] = part;
#pragma unroll
        for (int q = 0; q < LOGITS_A_LANE; q++) {
          if (expert == lane * LOGITS_A_LANE + q) keys[u][q] = 0;
        }
      }
    }
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      const int token = start + u;
      if (lane < TOPK && token < tokens) {
        const int pair = token * TOPK + lane;
        shares[first_token * TOPK + pair] = own_part[u] / total[u];
        chosen[first_token * TOPK + pair] = own_expert[u];
        if (own_chosen != nullptr) own_chosen[pair] = own_expert[u];
        if (members != nullptr) atomicOr(&members[token / WARP][own_expert[u]], 1u << token % WARP);
      }
    }
  }
}

// --- the sort

// The number of bits of an expert in each slice of 32 tokens: those before it to `before`, all of
// them returned.
__device__ __forceinline__ int count_members(const u32 (*members)[EXPERTS], int slices, int expert,
                                             int (*before)[EXPERTS]) {
  int count = 0;
  for (int slice = 0; slice < slices; slice++) {
    before[slice][expert] = count;
    count += __popc(members[slice][expert]);
  }
  return count;
}

// By one warp: each expert's first row and first work item from how many pairs it has; writes the
// offsets and the number of work items to memory if `write`.
__device__ __forceinline__ void scan(const int *counts, int *first_row, int *first_item,
                                     int *offsets, int *num_work, u32 rows_a_tile,
                                     bool write) {
  const int lane = threadIdx.x % WARP;
  int rows = 0, items = 0; // of this lane's experts, then of all up to them
#pragma unroll
  for (int q = 0; q < LOGITS_A_LANE; q++) {
    const int expert = lane * LOGITS_A_LANE + q;
    const int count = expert < EXPERTS ? counts[expert] : 0;
    rows += count;
    items += (count + rows_a_tile - 1) / rows_a_tile;
  }
  const int own_rows = rows, own_items = items;
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const int more_rows = __shfl_up_sync(ALL_LANES, rows, distance);
    const int more_items = __shfl_up_sync(ALL_LANES, items, distance);
    if (lane >= distance) rows += more_rows, items += more_items;
  }
  if (write && lane == WARP - 1) offsets[EXPERTS] = rows, *num_work = items;
  rows -= own_rows, items -= own_items;
#pragma unroll
  for (int q = 0; q < LOGITS_A_LANE; q++) {
    const int expert = lane * LOGITS_A_LANE + q;
    if (expert >= EXPERTS) break;
    first_row[expert] = rows;
    first_item[expert] = items;
    if (write) offsets[expert] = rows;
    rows += counts[expert];
    items += (counts[expert] + rows_a_tile - 1) / rows_a_tile;
  }
}

// The work items i, i + step, ... of an expert.
__device__ __forceinline__ void write_work(int4 *work, int expert, int first_item, int first_row,
                                           int count, int rows_a_tile, int i, int step) {
  for (; i * rows_a_tile < count; i += step) {
    const int done = i * rows_a_tile;
    work[first_item + i] = make_int4(expert, first_row + done, min(count - done, rows_a_tile), 0);
  }
}

// The whole sort by one block, from the bits and choices of all tokens. Synchronises first.
__device__ __forceinline__ void sort_pairs(const u32 (*members)[EXPERTS], int (*before)[EXPERTS],
                                           const u8 *own_chosen, int *offsets, int *pair_of_row,
                                           int4 *work, int *num_work, int tokens,
                                           int rows_a_tile) {
  __shared__ int counts[EXPERTS], first_row[EXPERTS], first_item[EXPERTS];
  const int slices = (tokens + WARP - 1) / WARP;
  __syncthreads();
  for (int expert = threadIdx.x; expert < EXPERTS; expert += blockDim.x) {
    counts[expert] = count_members(members, slices, expert, before);
  }
  __syncthreads();
  if (threadIdx.x < WARP) scan(counts, first_row, first_item, offsets, num_work, rows_a_tile, true);
  __syncthreads();
  for (int pair = threadIdx.x; pair < tokens * TOPK; pair += blockDim.x) {
    const int token = pair / TOPK, expert = own_chosen[pair], slice = token / WARP;
    const u32 earlier = members[slice][expert] & ((1u << token % WARP) - 1);
    pair_of_row[first_row[expert] + before[slice][expert] + __popc(earlier)] = pair;
  }
  // Warps from the last one on, as the first have pairs to write.
  const int unit = blockDim.x / WARP - 1 - threadIdx.x / WARP;
  for (int expert = unit; expert < EXPERTS; expert += blockDim.x / WARP) {
    write_work(work, expert, first_item[expert], first_row[expert], counts[expert],
               rows_a_tile, threadIdx.x % WARP, WARP);
  }
}

extern "C" __global__ void __launch_bounds__(1024, 1)
    route_choose(const float *logits, float *shares, int *chosen, int *offsets, int *pair_of_row,
                 int4 *work, int *num_work, int tokens, int rows_a_tile) {
  __shared__ u32 members[MOST_TOKENS / WARP][EXPERTS];
  __shared__ int before[MOST_TOKENS / WARP][EXPERTS];
  __shared__ u8 own_chosen[MOST_TOKENS * TOPK];
  const int slices = (tokens + WARP - 1) / WARP;
  let_next_kernel_start();
  for (int i = threadIdx.x; i < slices * EXPERTS; i += blockDim.x) members[0][i] = 0;
  __syncthreads();
  wait_for_previous_kernel();
  choose(logits, shares, chosen, 0, tokens, members, own_chosen);
  sort_pairs(members, before, own_chosen, offsets, pair_of_row, work, num_work, tokens,
             rows_a_tile);
}

extern "C" __global__ void __launch_bounds__(1024, 1)
    route_choose_part(const float *logits, float *shares, int *chosen, int *part_counts,
                      int tokens) {
  __shared__ u32 members[PART / WARP][EXPERTS];
  __shared__ int before[PART / WARP][EXPERTS];
  __shared__ u8 own_chosen[PART * TOPK];
  const int first_token = blockIdx.x * PART;
  let_next_kernel_start();
  for (int i = threadIdx.x; i < PART / WARP * EXPERTS; i += blockDim.x) members[0][i] = 0;
  __syncthreads();
  wait_for_previous_kernel();
  choose(logits, shares, chosen, first_token, min(PART, tokens - first_token), members, own_chosen);
  __syncthreads();
  for (int expert = threadIdx.x; expert < EXPERTS; expert += blockDim.x) {
    part_counts[blockIdx.x * EXPERTS + expert] =
        count_members(members, PART / WARP, expert, before);
  }
}

extern "C" __global__ void __launch_bounds__(PART *TOPK, 1)
    route_place(const int *chosen, const int *part_counts, int *offsets, int *pair_of_row,
                int4 *work, int *num_work, int tokens, int rows_a_tile) {
  __shared__ u32 members[PART / WARP][EXPERTS];
  __shared__ int before[PART / WARP][EXPERTS];
  __shared__ int counts[EXPERTS], earlier_counts[EXPERTS];
  __shared__ int first_row[EXPERTS], first_item[EXPERTS];
  const int parts = gridDim.x, part = blockIdx.x;
  let_next_kernel_start();
  for (int i = threadIdx.x; i < PART / WARP * EXPERTS; i += blockDim.x) members[0][i] = 0;
  for (int i = threadIdx.x; i < EXPERTS; i += blockDim.x) counts[i] = earlier_counts[i] = 0;
  __syncthreads();
  wait_for_previous_kernel();
  const int pair = part * PART * TOPK + threadIdx.x; // this thread's, if it has one
  const int token = threadIdx.x / TOPK;              // within the part
  const bool present = pair < tokens * TOPK;
  const int expert = present ? chosen[pair] : 0;
  if (present) atomicOr(&members[token / WARP][expert], 1u << token % WARP);
  if (blockDim.x % EXPERTS == 0) { // a thread's counts are all of one expert
    int sum = 0, earlier = 0;
    for (int i = threadIdx.x; i < parts * EXPERTS; i += blockDim.x) {
      const int count = part_counts[i];
      sum += count;
      earlier += i / EXPERTS < part ? count : 0;
    }
    atomicAdd(&counts[threadIdx.x % EXPERTS], sum);
    atomicAdd(&earlier_counts[threadIdx.x % EXPERTS], earlier);
  } else {
    for (int i = threadIdx.x; i < parts * EXPERTS; i += blockDim.x) {
      atomicAdd(&counts[i % EXPERTS], part_counts[i]);
      if (i / EXPERTS < part) atomicAdd(&earlier_counts[i % EXPERTS], part_counts[i]);
    }
  }
  __syncthreads();
  for (int e = threadIdx.x; e < EXPERTS; e += blockDim.x) {
    count_members(members, PART / WARP, e, before);
  }
  if (threadIdx.x < WARP) scan(counts, first_row, first_item, offsets, num_work, rows_a_tile,
                            part == 0);
  __syncthreads();
  if (present) {
    const int slice = token / WARP;
    const u32 earlier = members[slice][expert] & ((1u << token % WARP) - 1);
    const int row = first_row[expert] + earlier_counts[expert] + before[slice][expert];
    pair_of_row[row + __popc(earlier)] = pair;
  }
  for (int e = part; e < EXPERTS; e += parts) {
    write_work(work, e, first_item[e], first_row[e], counts[e], rows_a_tile, threadIdx.x,
               blockDim.x);
  }
}
