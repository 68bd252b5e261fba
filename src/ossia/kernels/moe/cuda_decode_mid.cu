// The experts of about 65 to 512 tokens, in two launches. Rows are the (token, choice) pairs sorted
// by expert; a work item is up to N rows of one expert.
//
//   mid_gate_up: h[row] = swiglu(G_e normed[token of row] + b)      bf16 [pairs, INTERMEDIATE]
//   mid_down:    y[pair of row] = D_e h[row] + b                    bf16 [pairs, HIDDEN]
//
// Bytes: the matrices of every expert in use once, 4.25 bits a weight; 8.8 MB and 4.4 MB an expert
// of gpt-oss. For each 64 columns, a unit of BLOCK_TILES x 64 weight rows also reads 128 bytes of
// each of its rows from the L2 and its weights' 2,176 bytes a tile: with 6 tiles and 32 rows a
// third more than the weights alone, which the L2 can give.
//
// Arithmetic, for a multiprocessor and 64 x 64 weights: some 90 instructions of each of 4 warps to
// unpack them, and four products of (rows / 2) cycles. At 32 rows each takes about half of the time
// of the bytes, so they must overlap, with each other and with the copies.
//
// Launch shape: one block a multiprocessor. All (item, tile of 64 weight rows) in a row are cut
// into gridDim ranges that cost the same, within one tile; a block cuts its range, at the borders
// of items too, into units of up to BLOCK_TILES tiles.
//
// The last four warps copy: one lane weights and scales, by the bulk copy engine, CHUNKS chunks of
// 64 columns a stage; three warps rows of activations, in pieces of 16 bytes that are swizzled as
// wgmma reads them. STAGES - 1 or more stages are on their way at any time, from one unit to the
// next too. GROUPS warpgroups multiply; each takes every GROUPS-th tile of a unit, up to TILES.
// Weights are the operand in registers: HALVES halves of a chunk are unpacked while the products of
// those before run. No split over columns and no atomics: a row's result depends on nothing else.
//
// Rows and tiles that a unit does not have hold stale bytes in shared memory; they only reach
// elements of the product that nobody stores.
//
// Macros: HIDDEN, INTERMEDIATE (multiples of 64), TOPK, N (see `columns`), GROUPS (2 to 4), TILES,
// CHUNKS (divides HIDDEN / 64 and INTERMEDIATE / 64), STAGES, HALVES (1 or 2), EVEN_ROWS
// (rows up to which tiles cost the same), SCALE_STEPS (divides the stages of a unit), and in tests
// WAIT_LIMIT_NS.

constexpr int GROUP_WARPS = 4;
constexpr int CONSUMERS = GROUPS * GROUP_WARPS; // warps
constexpr int ROW_COPIERS = 3;                  // warps
constexpr int THREADS = (CONSUMERS + 1 + ROW_COPIERS) * WARP;
constexpr int BIG_TILE = GROUP_WARPS * TILE; // weight rows of a product
constexpr int BLOCK_TILES = GROUPS * TILES;
constexpr int TILE_BYTES = CHUNKS * WARP * 16; // of 16 weight rows in a stage
constexpr int STEP_SCALES = CHUNKS * 32;       // bytes, of 16 weight rows in a stage
constexpr int ROW_BYTES = CHUNK * 2;           // of a row of activations in a chunk
constexpr int ROWS_SIZE = CHUNKS * N * ROW_BYTES; // of a stage, as the next
constexpr int WORDS_SIZE = BLOCK_TILES * GROUP_WARPS * TILE_BYTES;
// Scales have a ring of their own: small copies cost as much as large ones, so one brings those of
// 16 weight rows for SCALE_STEPS stages, counted into the first of them, to the next of SCALE_SLOTS
// slots. Copy q, for stages q SCALE_STEPS and following, is asked for when all warps have released
// stage q SCALE_STEPS - STAGES, and so all before. The slot's last readers were those of stage
// (q - SCALE_SLOTS + 1) SCALE_STEPS - 1, which must not be later.
constexpr int SCALE_BYTES = SCALE_STEPS * STEP_SCALES; // of a copy
constexpr int SCALE_SLOTS = (STAGES - 1 + SCALE_STEPS - 1) / SCALE_STEPS + 1;
constexpr int SCALE_RING = SCALE_SLOTS * SCALE_BYTES; // of 16 weight rows
static_assert(STAGES <= (SCALE_SLOTS - 1) * SCALE_STEPS + 1, "scales are not overwritten in use");
constexpr int WORDS_AT = STAGES * ROWS_SIZE; // in shared memory, behind the rows of all stages
constexpr int SCALES_AT = WORDS_AT + STAGES * WORDS_SIZE;
constexpr int BARRIERS_AT = SCALES_AT + BLOCK_TILES * GROUP_WARPS * SCALE_RING;
constexpr int ROW_PIECES = ROW_BYTES / 16;
constexpr int ROWS_A_COPY = WARP / ROW_PIECES;           // that a warp copies by one instruction
constexpr int ROW_STEP = ROW_COPIERS * ROWS_A_COPY;      // 12: rows r and r + 24 are swizzled alike
constexpr int ROW_STEPS = (N + ROW_STEP - 1) / ROW_STEP; // for all rows
// Registers of a thread that copies and of one that multiplies, from what the launch has for all.
constexpr int GIVEN_REGISTERS = GROUPS == 2 && N <= 96 ? 40 : 56;
constexpr int TAKEN_REGISTERS = GROUPS == 4 ? 104 : GROUPS == 3 ? 152 : N <= 96 ? 232 : 224;
static_assert(HIDDEN % BIG_TILE == 0 && INTERMEDIATE % BIG_TILE == 0, "tiles of 64 rows");
static_assert(HIDDEN / CHUNK % CHUNKS == 0 && INTERMEDIATE / CHUNK % CHUNKS == 0, "whole stages");
static_assert(HIDDEN / CHUNK / CHUNKS % SCALE_STEPS == 0 &&
                  INTERMEDIATE / CHUNK / CHUNKS % SCALE_STEPS == 0,
              "whole copies of scales");
static_assert(GROUPS >= 2 && GROUPS <= 4 && STAGES >= 2, "launch shape");

// The sizes of products: a unit takes the first that its rows fit. Each has a loop of its own, and
// the compiler finds registers for a few only.
constexpr int SMALLEST = N <= 16 ? 8 : N <= 48 ? N - 16 : N == 80 ? 48 : 32;
__device__ constexpr int larger(int size) {
  return N <= 48 ? size + 8 : N <= 80 || (TILES == 1 && size < 64) ? size + 16 : size + 32;
}

struct Item { // as `Groups.work` has it
  int expert, first_row, rows, zero;
};

struct Place { // in the rings
  int stage = 0;
  u32 parity = 0;
  u32 scales = 0; // of the stage, from the first of the 16 weight rows on
  __device__ __forceinline__ void advance() {
    scales += STEP_SCALES;
    if (scales == SCALE_RING) scales = 0;
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

struct Unit {
  Item item;
  int first, tiles; // of 64 weight rows; tiles == 0: there is no further unit
};

// The units of this block, one after the other.
template <int ALL_TILES> struct Units {
  const Item *work;
  int at, end; // in the row of all (item, tile)

  // Called by whole warps.
  __device__ __forceinline__ Units(const Item *items, int num_work) : work(items) {
    long long part = blockIdx.x, parts = gridDim.x;
    if (N <= EVEN_ROWS) {
      at = part * num_work * ALL_TILES / parts;
      end = (part + 1) * num_work * ALL_TILES / parts;
      return;
    }
    int lane = fresh_thread() % WARP, sum = 0;
    for (int i = lane; i < num_work; i += WARP) sum += cost(work[i].rows);
    long long all = (long long)__reduce_add_sync(ALL_LANES, sum) * ALL_TILES;
    int from = part * all / parts, to = (part + 1) * all / parts, done = 0;
    at = end = 0;
    for (int first = 0; first < num_work; first += WARP) {
      int mine = first + lane < num_work ? cost(work[first + lane].rows) : 0, until = mine;
#pragma unroll
      for (int i = 1; i < WARP; i *= 2) {
        int left = __shfl_up_sync(ALL_LANES, until, i);
        if (lane >= i) until += left;
      }
      int start = done + (until - mine) * ALL_TILES; // of this lane's item
      at += tiles_before(from - start, mine);
      end += tiles_before(to - start, mine);
      done += __shfl_sync(ALL_LANES, until, WARP - 1) * ALL_TILES;
    }
    at = __reduce_add_sync(ALL_LANES, at);
    end = __reduce_add_sync(ALL_LANES, end);
  }
  // Of a tile: up to EVEN_ROWS rows the bytes of its weights are the limit, then the products.
  __device__ __forceinline__ static int cost(int rows) { return EVEN_ROWS + max(rows, EVEN_ROWS); }
  __device__ __forceinline__ static int tiles_before(int distance, int tile_cost) {
    return tile_cost == 0 ? 0 : min(max(distance, 0) / tile_cost, ALL_TILES);
  }
  __device__ __forceinline__ Unit next() {
    Unit unit = {};
    if (at < end) {
      int item = at / ALL_TILES;
      unit.first = at - item * ALL_TILES;
      int left = min(end - at, ALL_TILES - unit.first); // of this item in the range
      int parts = (left + BLOCK_TILES - 1) / BLOCK_TILES;
      unit.tiles = (left + parts - 1) / parts;
      unit.item = work[item];
      at += unit.tiles;
    }
    return unit;
  }
};

template <bool GATE_UP> struct Experts {
  static constexpr int ROWS = GATE_UP ? 2 * INTERMEDIATE : HIDDEN;
  static constexpr int COLUMNS = GATE_UP ? HIDDEN : INTERMEDIATE;
  static constexpr int ALL_TILES = ROWS / BIG_TILE, ALL_CHUNKS = COLUMNS / CHUNK;
  static constexpr int STEPS = ALL_CHUNKS / CHUNKS; // stages of a unit

  const u8 *blocks, *scales;
  const u16 *bias;
  const u8 *input;
  const int *pair_of_row;
  const Item *work;
  u16 *out;
  float gain, alpha, limit;
  u32 ring; // address in shared memory

  __device__ __forceinline__ u32 full(int stage) const { return ring + BARRIERS_AT + stage * 8; }
  __device__ __forceinline__ u32 empty(int stage) const { return full(stage) + STAGES * 8; }

  // --- the warps that copy

  __device__ __forceinline__ void copy_weights(const int *num_work) const {
    if (GATE_UP) {
      wait_for_previous_kernel();
      let_next_kernel_start();
    }
    // mid_down may read the work items before the wait: mid_gate_up, the only kernel that may still
    // run, let it start after the kernels before had ended.
    Units<ALL_TILES> units(work, *num_work);
    if (elect()) {
      Place place;
      for (Unit unit = units.next(); unit.tiles > 0; unit = units.next()) {
        long long tile = ((long long)unit.item.expert * ALL_TILES + unit.first) * GROUP_WARPS;
        int tiles = unit.tiles * GROUP_WARPS;
        const u8 *tile_blocks = blocks + tile * (ALL_CHUNKS * WARP * 16);
        const u8 *tile_scales = scales + tile * (ALL_CHUNKS * 32);
        for (int step = 0; step < STEPS; step++) {
          u32 words_to = ring + WORDS_AT + place.stage * WORDS_SIZE, barrier = full(place.stage);
          bool with_scales = step % SCALE_STEPS == 0;
          wait_until(empty(place.stage), place.parity ^ 1);
          arrive_and_expect(barrier, tiles * (TILE_BYTES + (with_scales ? SCALE_BYTES : 0)));
          if (with_scales) {
            u32 scales_to = ring + SCALES_AT + place.scales;
#pragma unroll 4
            for (int m = 0; m < tiles; m++)
              copy(scales_to + m * SCALE_RING, tile_scales + m * (ALL_CHUNKS * 32), SCALE_BYTES,
                   barrier);
            tile_scales += SCALE_BYTES;
          }
#pragma unroll 4
          for (int m = 0; m < tiles; m++)
            copy(words_to + m * TILE_BYTES, tile_blocks + m * (ALL_CHUNKS * WARP * 16), TILE_BYTES,
                 barrier);
          tile_blocks += TILE_BYTES;
          place.advance();
        }
      }
    }
    __syncwarp();
    if (!GATE_UP) wait_for_previous_kernel();
  }

  // Every ROW_COPIERS-th group of ROWS_A_COPY rows.
  __device__ __forceinline__ void copy_rows(const int *num_work, int copier, int lane) const {
    wait_for_previous_kernel();
    Units<ALL_TILES> units(work, *num_work);
    Place place;
    int first = copier * ROWS_A_COPY + lane / ROW_PIECES, piece = lane % ROW_PIECES;
    u32 swizzled[2] = {(u32)(piece ^ first % 8) * 16, (u32)(piece ^ (first + ROW_STEP) % 8) * 16};
    Unit unit = units.next();
    while (unit.tiles > 0) {
      int rows = unit.item.rows;
      u32 from[ROW_STEPS];
#pragma unroll
      for (int i = 0; i < ROW_STEPS; i++) {
        int row = unit.item.first_row + min(first + i * ROW_STEP, rows - 1);
        if (GATE_UP) row = pair_of_row[row] / TOPK;
        from[i] = (u32)row * (COLUMNS * 2) + piece * 16;
      }
      unit = units.next();
      const u8 *stage_input = input;
      for (int step = 0; step < STEPS; step++) {
        u32 to = ring + place.stage * ROWS_SIZE + first * ROW_BYTES;
        wait_until(empty(place.stage), place.parity ^ 1);
#pragma unroll
        for (int i = 0; i < ROW_STEPS; i++) {
          if (first + i * ROW_STEP < rows) {
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
              copy_piece(to + c * (N * ROW_BYTES) + i * ROW_STEP * ROW_BYTES + swizzled[i % 2],
                         stage_input + from[i] + c * ROW_BYTES);
          }
        }
        stage_input += CHUNKS * ROW_BYTES;
        arrive_after_pieces(full(place.stage));
        place.advance();
      }
    }
  }

  // --- the warps that multiply

  __device__ __forceinline__ static void release(u32 barrier) {
    __syncwarp();
    if (fresh_thread() % WARP == 0) arrive(barrier);
  }

  // The products of NT tiles with NS rows, over all columns; see `cuda_decode_mid_parts.cu` for who
  // gets which.
  template <int NS, int NT>
  __device__ __forceinline__ void multiply(float (&d)[NT][NS / 2], Place &place) const {
    constexpr int PAIRS = CHUNKS * NT;                  // of a chunk and a tile, in a stage
    constexpr int PARTS = PAIRS % 2 ? 1 : HALVES;       // halves of a chunk that a group has
    constexpr int STEP_GROUPS = PAIRS * 2 / PARTS;      // an even number
    constexpr int NEXT_TILE = GROUPS * GROUP_WARPS;     // of this warp, in tiles of 16 rows
    int warp = fresh_thread() / WARP, lane = fresh_thread() % WARP;
    u32 words_at = ring + WORDS_AT + warp * TILE_BYTES + lane * 16;
    u32 scales_at = ring + SCALES_AT + warp * SCALE_RING + lane / 4 * 4;
    u32 a[2][8 * PARTS];
    // Written here and not left to the first products: registers without a first value would be
    // kept for the whole kernel, those of every size.
#pragma unroll
    for (int m = 0; m < NT; m++) {
#pragma unroll
      for (int i = 0; i < NS / 2; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(d[m][i]));
    }
    wait_until(full(place.stage), place.parity);
    see_copies();
    Packed packed = load_packed(words_at + place.stage * WORDS_SIZE, scales_at + place.scales);
    unpack_half<0>(packed, a[0]);
    if (PARTS == 2) unpack_half<1>(packed, a[0] + 8 * (PARTS - 1));
    u32 before = 0; // the barrier of the stage whose products may still run, if any
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
      u32 rows = describe(ring + place.stage * ROWS_SIZE);
      u32 words = words_at + place.stage * WORDS_SIZE;
      u32 stage_scales = scales_at + place.scales, now = empty(place.stage);
      Packed next;
#pragma unroll
      for (int i = 0; i < STEP_GROUPS; i++) {
        int pair = i * PARTS / 2, half = i * PARTS % 2, chunk = pair / NT, tile = pair % NT;
        begin_products();
#pragma unroll
        for (int k = 0; k < 2 * PARTS; k++) { // 16 columns, 32 bytes of a row, each
          Product<NS>::run(d[tile], a[i % 2] + 4 * k,
                           rows + (chunk * N * ROW_BYTES + (2 * half + k) * 32) / 16);
        }
        end_products();
        bool last = i + 1 == STEP_GROUPS; // of the stage
        if (last) {
          place.advance();
          bool ready = __all_sync(ALL_LANES, phase_ended(full(place.stage), place.parity));
          if (step + 1 < STEPS && !ready) {
            // Nothing to do: the copies can have this stage now.
            wait_for_products<0>();
            release(now);
            now = 0;
            wait_until(full(place.stage), place.parity);
          }
          see_copies();
          // After the last stage this reads what nobody uses.
          next = load_packed(words_at + place.stage * WORDS_SIZE, scales_at + place.scales);
        } else if (half == 0) {
          // The weights of the next tile of this chunk, or of the next chunk, are read early.
          int tile_next = (pair + 1) % NT * NEXT_TILE, chunk_next = (pair + 1) / NT;
          if (pair + 1 < PAIRS)
            next = load_packed(words + tile_next * TILE_BYTES + chunk_next * (WARP * 16),
                               stage_scales + tile_next * SCALE_RING + chunk_next * 32);
        }
        wait_for_products<1>();
        if (i == 0 && before != 0) release(before);
        if (PARTS == 1 && half == 0) {
          unpack_half<1>(packed, a[(i + 1) % 2]);
        } else {
          packed = next;
          unpack_half<0>(packed, a[(i + 1) % 2]);
          if (PARTS == 2) unpack_half<1>(packed, a[(i + 1) % 2] + 8 * (PARTS - 1));
        }
      }
      before = now;
    }
    wait_for_products<0>();
#pragma unroll
    for (int m = 0; m < NT; m++) {
#pragma unroll
      for (int i = 0; i < NS / 2; i++) asm volatile("" : "+f"(d[m][i])::"memory");
    }
    if (before != 0) release(before);
  }

  // The two below transpose 8 x 8 results at a time, so that a lane has neighbours of one row and a
  // warp writes pieces of rows: 16 bytes of eight rows of h, a whole sector of 32 of eight of y.
  template <int NS, int NT>
  __device__ __forceinline__ void write_h(const float (&d)[NT][NS / 2], const Item &item,
                                          int first_tile, const u32 (&biases)[NT]) const {
    int g = fresh_thread() % WARP / 4, t = fresh_thread() % 4;
    float slope = alpha * -1.442695f; // of the exponent of two
    u16 *to = out + (u64)(item.first_row + g) * INTERMEDIATE + first_tile * (TILE / 2) + 2 * t;
#pragma unroll
    for (int j = 0; j < NS / 8; j++) {
#pragma unroll
      for (int m = 0; m < NT; m++) {
        float values[2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
          float gate = d[m][4 * j + c] * gain + from_bf16(biases[m] & 0xFFFFu);
          float up = d[m][4 * j + c + 2] * gain + __uint_as_float(biases[m] & 0xFFFF0000u);
          values[c] = short_swiglu(gate, up, slope, limit);
        }
        u32 two = transpose(bf16x2(values[0], values[1]));
        if (j * 8 + g < item.rows)
          store_4(to + j * 8 * INTERMEDIATE + m * (CONSUMERS * TILE / 2), two);
      }
    }
  }

  template <int NS, int NT>
  __device__ __forceinline__ void write_y(const float (&d)[NT][NS / 2], const Item &item,
                                          int first_tile, const u32 (&biases)[NT],
                                          const int (&pairs)[(NS + WARP - 1) / WARP]) const {
    int g = fresh_thread() % WARP / 4, t = fresh_thread() % 4;
    bool odd = t % 2 != 0;
    u16 *to = out + first_tile * TILE + (odd ? 2 * t + 6 : 2 * t);
#pragma unroll
    for (int j = 0; j < NS / 8; j++) {
      u32 row = __shfl_sync(ALL_LANES, pairs[j / 4], j % 4 * 8 + g);
#pragma unroll
      for (int m = 0; m < NT; m++) {
        float first = from_bf16(biases[m] & 0xFFFFu);
        float second = __uint_as_float(biases[m] & 0xFFFF0000u);
        u32 low = transpose(bf16x2(d[m][4 * j] * gain + first, d[m][4 * j + 1] * gain + first));
        u32 high =
            transpose(bf16x2(d[m][4 * j + 2] * gain + second, d[m][4 * j + 3] * gain + second));
        // A lane has columns 2 t, 2 t + 1, 8 + 2 t, 9 + 2 t. Two share them: four in a row each.
        u32 got = __shfl_xor_sync(ALL_LANES, odd ? low : high, 1);
        if (j * 8 + g < item.rows)
          store_8(to + (u64)row * HIDDEN + m * (CONSUMERS * TILE), odd ? got : low,
                  odd ? high : got);
      }
    }
  }

  // Products to h or y.
  template <int NS, int NT>
  __device__ __forceinline__ void work_on(const Unit &unit, Place &place) const {
    Item item = unit.item;
    int first_tile = unit.first * GROUP_WARPS + fresh_thread() / WARP; // of this warp, of 16 rows
    int pairs[(NS + WARP - 1) / WARP] = {}; // lane i has those of rows i, i + 32, ...
    u32 biases[NT];
    {
      int lane = fresh_thread() % WARP, g = lane / 4;
#pragma unroll
      for (int i = 0; i < (NS + WARP - 1) / WARP && !GATE_UP; i++)
        pairs[i] = pair_of_row[item.first_row + min(i * WARP + lane, item.rows - 1)];
#pragma unroll
      for (int m = 0; m < NT; m++) {
        const u16 *from =
            bias + (long long)item.expert * ROWS + (first_tile + m * CONSUMERS) * TILE;
        biases[m] = GATE_UP ? reinterpret_cast<const u32 *>(from)[g] : from[g] | from[g + 8] << 16;
      }
    }
    float d[NT][NS / 2];
    multiply<NS, NT>(d, place);
    if (GATE_UP) write_h<NS, NT>(d, item, first_tile, biases);
    else write_y<NS, NT>(d, item, first_tile, biases, pairs);
  }

  // Each size has a loop of its own, and each is one more that the compiler finds registers for. So
  // units with fewer than TILES tiles take all N rows: what they waste is little, and of products.
  template <int NT>
  __device__ __forceinline__ void take_tiles(const Unit &unit, int tiles, Place &place) const {
    if constexpr (NT < TILES - 1) {
      if (tiles > NT) {
        take_tiles<NT + 1>(unit, tiles, place);
        return;
      }
    }
    work_on<N, NT>(unit, place);
  }

  template <int NS>
  __device__ __forceinline__ void take_rows(const Unit &unit, Place &place) const {
    if constexpr (NS < N) {
      if (unit.item.rows > NS) {
        take_rows<larger(NS)>(unit, place);
        return;
      }
    }
    work_on<NS, TILES>(unit, place);
  }

  __device__ __forceinline__ void pass(Place &place) const {
    for (int step = 0; step < STEPS; step++) {
      wait_until(full(place.stage), place.parity);
      release(empty(place.stage));
      place.advance();
    }
  }

  __device__ __forceinline__ void multiply_all(const int *num_work) const {
    wait_for_previous_kernel();
    Units<ALL_TILES> units(work, *num_work);
    Place place;
    for (Unit unit = units.next(); unit.tiles > 0; unit = units.next()) {
      int group = fresh_thread() / (GROUP_WARPS * WARP);
      int tiles = (unit.tiles - group + GROUPS - 1) / GROUPS; // of this warpgroup
      if (tiles >= TILES) {
        take_rows<SMALLEST>(unit, place);
      } else if (tiles > 0) {
        take_tiles<1>(unit, tiles, place);
      } else {
        pass(place);
      }
    }
  }
};

template <bool GATE_UP>
__device__ __forceinline__ void run(const u8 *blocks, const u8 *scales, const u16 *bias,
                                    const u8 *input, const int *pair_of_row, const Item *work,
                                    const int *num_work, u16 *out, float gain, float alpha,
                                    float limit) {
  extern __shared__ u8 memory[];
  u32 ring = ((u32)__cvta_generic_to_shared(memory) + 1023) & ~1023u; // as swizzling wants it
  Experts<GATE_UP> experts = {blocks, scales, bias, input, pair_of_row, work,
                              out,    gain,   alpha, limit, ring};
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      init_barrier(experts.full(s), 1 + ROW_COPIERS * WARP);
      init_barrier(experts.empty(s), CONSUMERS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (warp < CONSUMERS) {
    take_registers<TAKEN_REGISTERS>();
    experts.multiply_all(num_work);
  } else {
    give_registers<GIVEN_REGISTERS>();
    if (warp == CONSUMERS) experts.copy_weights(num_work);
    else experts.copy_rows(num_work, warp - CONSUMERS - 1, lane);
  }
}

// blocks [E, 2I/16, HIDDEN/64, 32] x 16 bytes, scales [E, 2I/16, HIDDEN/64, 8] x 4 bytes, bias bf16
// [E, 2I], normed bf16 [tokens, HIDDEN], h bf16 [pairs, I]; alpha, limit: of the SwiGLU.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    mid_gate_up(const u8 *blocks, const u8 *scales, const u16 *bias, const u8 *normed,
                const int *pair_of_row, const Item *work, const int *num_work, u16 *h, float gain,
                float alpha, float limit) {
  run<true>(blocks, scales, bias, normed, pair_of_row, work, num_work, h, gain, alpha, limit);
}

// blocks [E, HIDDEN/16, I/64, 32] x 16 bytes, scales [E, HIDDEN/16, I/64, 8] x 4 bytes, bias bf16
// [E, HIDDEN], h bf16 [pairs, I], y bf16 [pairs, HIDDEN].
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    mid_down(const u8 *blocks, const u8 *scales, const u16 *bias, const u8 *h,
             const int *pair_of_row, const Item *work, const int *num_work, u16 *y, float gain) {
  let_next_kernel_start();
  run<false>(blocks, scales, bias, h, pair_of_row, work, num_work, y, gain, 0.0f, 0.0f);
}
