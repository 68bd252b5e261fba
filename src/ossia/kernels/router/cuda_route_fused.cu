// Routing and grouping of some tokens in one launch, from the parts of cuda_route.cu, which has the
// formulas and the launch shape of the logits.
//
// Bytes: as the two launches of cuda_route.cu, less 128 or 512 bytes of logits a token.
//
// Launch shape: that of route_logits; the blocks that share a tile of tokens are a cluster. They put
// their logits into the shared memory of the cluster's first block, which chooses. Of those first
// blocks the last to be done sorts all pairs: it alone can know that every choice is made, and
// waits for nobody. Which block that is does not show in the results.

constexpr int FUSED_TOKENS = 256; // at most
constexpr int MOST_TILES = 4;     // of a cluster

static_assert(GROUPS <= 8, "a cluster has at most eight blocks");

// `value` to `to` in the shared memory of the cluster's first block.
__device__ __forceinline__ void store_in_first_block(float *to, float value) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, 0;\n"
      "st.shared::cluster.f32 [there], %1;\n}" ::"r"((u32)__cvta_generic_to_shared(to)),
      "f"(value)
      : "memory");
}

// All threads of the cluster; what was written before, there too, is seen after.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// `finished` counts the clusters that are done; it is 0 before and after. At most FUSED_TOKENS
// tokens, and MOST_TILES tiles for each blockIdx.y.
extern "C" __global__ void __cluster_dims__(GROUPS, 1, 1) __launch_bounds__(WARPS *WARP, 1)
    route_fused(const uint4 *x, const uint4 *norm, const uint4 *weight, const u16 *bias,
                uint4 *normed, float *shares, int *chosen, int *offsets, int *pair_of_row,
                int4 *work, int *num_work, u32 *finished, int tokens, int rows_a_tile, float eps) {
  __shared__ float found[MOST_TILES][TOKENS][EXPERTS];
  __shared__ u32 members[FUSED_TOKENS / WARP][EXPERTS];
  __shared__ int before[FUSED_TOKENS / WARP][EXPERTS];
  __shared__ u8 own_chosen[FUSED_TOKENS * TOPK];
  __shared__ bool last;
  const int slices = (tokens + WARP - 1) / WARP;
  if (blockIdx.x == 0) {
    for (int i = threadIdx.x; i < slices * EXPERTS; i += blockDim.x) members[0][i] = 0;
  }
  cluster_sync(); // the first block has begun: its memory may be written
  find_logits(x, norm, weight, bias, normed, tokens, eps,
              [&](int tile, int of_tile, int expert, float logit) {
                const int own = (tile - int(blockIdx.y)) / int(gridDim.y);
                store_in_first_block(&found[own][of_tile][expert], logit);
              });
  cluster_sync();
  if (blockIdx.x != 0) return;
  for (int own = 0;; own++) {
    const int first = (own * int(gridDim.y) + int(blockIdx.y)) * TOKENS;
    if (first >= tokens) break;
    choose(found[own][0], shares + first * TOPK, chosen + first * TOPK, 0,
           min(TOKENS, tokens - first), nullptr, nullptr);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence(); // the choices of the block are seen before it counts as done
    last = atomicInc(finished, gridDim.y - 1) == gridDim.y - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  for (int pair = threadIdx.x; pair < tokens * TOPK; pair += blockDim.x) {
    const int token = pair / TOPK, expert = __ldcg(chosen + pair);
    own_chosen[pair] = expert;
    atomicOr(&members[token / WARP][expert], 1u << token % WARP);
  }
  sort_pairs(members, before, own_chosen, offsets, pair_of_row, work, num_work, tokens,
             rows_a_tile);
}
