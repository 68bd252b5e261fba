// Attention over the paged cache: how the work is divided.
//
// The rows of a tile are the heads of one key head for up to 64 / group tokens of a sequence, so
// that keys are read once for all of them. Keys are taken in ranges of 256 positions that start at
// multiples of 256, and what ranges give is merged in their order: a token's bits depend neither
// on the chunk it came in nor on who computes which range. Where there are few tiles for the
// threads (long sequences that decode, many cores), ranges of one tile are given out by themselves
// and merged afterwards.
//
// Bytes that must be moved: 2 * head_dim * itemsize a key and key head, once for each tile.
#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "cpu_block_kernels.h"
#include "cpu_context.h"
#include "ossia_cpu_blocks.h"

namespace ossia {
namespace {

// Tokens of one sequence whose queries are computed together.
struct Tile {
  int64_t sequence;
  int64_t token;     // the first, in the step
  int64_t position;  // of the first, in the sequence
  int64_t tokens;
  int64_t first_range, ranges;
  int64_t partial;  // ranges of earlier tiles
};

// What a thread works in, and where ranges of tiles that are divided leave their results.
struct Room {
  float *rows, *scratch;
  Partial state, more;
};

class Attention {
 public:
  Attention(ossia_context *context, const float *q, int64_t stride, const ossia_heads &heads,
            const ossia_pages &pages, const ossia_cache &cache, const float *sinks, float *out)
      : context_(context),
        kernels_(block_kernels(context->level)),
        q_(q),
        stride_(stride),
        heads_(heads),
        pages_(pages),
        cache_(cache),
        sinks_(sinks),
        out_(out),
        group_(heads.heads / heads.kv_heads),
        dim_(heads.head_dim) {}

  int run() {
    find_tiles();
    const int64_t kv = heads_.kv_heads, tiles = static_cast<int64_t>(tiles_.size());
    const int64_t items = tiles * kv;
    const bool divided = items < 4 * context_->pool.threads() && ranges_ > tiles;
    if (!place(divided ? ranges_ * kv : 0)) return OSSIA_NO_MEMORY;
    if (!divided) {
      // The last tiles of a prompt see the most keys: they go first.
      context_->pool.run(items, [&](int64_t i, int thread) {
        whole(tiles_[tiles - 1 - i / kv], i % kv, room(thread));
      });
      return OSSIA_OK;
    }
    std::vector<int32_t> owners(ranges_);
    for (int64_t i = 0; i < tiles; ++i) {
      std::fill_n(owners.begin() + tiles_[i].partial, tiles_[i].ranges, static_cast<int32_t>(i));
    }
    context_->pool.run(ranges_ * kv, [&](int64_t i, int thread) {
      const Tile &tile = tiles_[owners[i / kv]];
      Room space = room(thread);
      take_rows(tile, i % kv, space.rows);
      const int64_t range = tile.first_range + i / kv - tile.partial;
      one_range(tile, i % kv, range, space, stored(i));
    });
    context_->pool.run(items, [&](int64_t i, int thread) {
      const Tile &tile = tiles_[i / kv];
      const int64_t head = i % kv, first = tile.partial * kv + head;
      const Room space = room(thread);
      clear(space.state);
      for (int64_t r = 0; r < tile.ranges; ++r) {
        kernels_.merge(rows_of(tile), dim(), space.state, stored(first + r * kv));
      }
      finish(tile, head, space.state);
    });
    return OSSIA_OK;
  }

 private:
  int dim() const { return static_cast<int>(dim_); }
  int rows_of(const Tile &tile) const { return static_cast<int>(tile.tokens * group_); }
  int64_t low_of(int64_t position) const {
    return heads_.window > 0 ? std::max<int64_t>(0, position - heads_.window + 1) : 0;
  }

  void find_tiles() {
    const int64_t most = std::max<int64_t>(1, kTileRows / group_);
    for (int64_t s = 0; s < pages_.sequences; ++s) {
      const int64_t end = pages_.query_starts[s + 1];
      for (int64_t t = pages_.query_starts[s]; t < end; t += most) {
        const int64_t tokens = std::min(most, end - t);
        const int64_t position = pages_.kv_lens[s] - (end - t);
        const int64_t first = low_of(position) / kRangeKeys;
        const int64_t ranges = (position + tokens - 1) / kRangeKeys - first + 1;
        tiles_.push_back({s, t, position, tokens, first, ranges, ranges_});
        ranges_ += ranges;
      }
    }
  }

  // Floats of one Partial, in whole cache lines.
  int64_t partial_floats() const { return (kTileRows * (dim_ + 2) + 15) / 16 * 16; }

  bool place(int64_t stored) {
    thread_floats_ =
        kTileRows * dim_ + attend_scratch(kTileRows, dim()) + 2 * partial_floats() + 16;
    thread_floats_ = (thread_floats_ + 15) / 16 * 16;
    Arena arena;
    const size_t rooms = arena.add<float>(thread_floats_ * context_->pool.threads());
    const size_t partials = arena.add<float>(partial_floats() * stored);
    if (!arena.place(context_->scratch)) return false;
    rooms_ = arena.at<float>(rooms);
    partials_ = arena.at<float>(partials);
    return true;
  }

  Partial partial_at(float *memory) const {
    return {memory, memory + kTileRows, memory + 2 * kTileRows};
  }
  Partial stored(int64_t i) const { return partial_at(partials_ + i * partial_floats()); }
  Room room(int thread) const {
    float *memory = rooms_ + thread * thread_floats_;
    float *scratch = memory + kTileRows * dim_;
    float *state = scratch + attend_scratch(kTileRows, dim());
    return {memory, scratch, partial_at(state), partial_at(state + partial_floats())};
  }
  static void clear(const Partial &state) {
    std::fill_n(state.largest, kTileRows, -std::numeric_limits<float>::infinity());
  }

  void take_rows(const Tile &tile, int64_t head, float *rows) const {
    for (int64_t t = 0; t < tile.tokens; ++t) {
      const float *from = q_ + (tile.token + t) * stride_ + head * group_ * dim_;
      for (int64_t i = 0; i < group_ * dim_; ++i) *rows++ = from[i] * heads_.scale;
    }
  }

  void whole(const Tile &tile, int64_t head, const Room &space) const {
    take_rows(tile, head, space.rows);
    one_range(tile, head, tile.first_range, space, space.state);
    for (int64_t r = 1; r < tile.ranges; ++r) {
      one_range(tile, head, tile.first_range + r, space, space.more);
      kernels_.merge(rows_of(tile), dim(), space.state, space.more);
    }
    finish(tile, head, space.state);
  }

  void one_range(const Tile &tile, int64_t head, int64_t range, const Room &space,
                 const Partial &into) const {
    const int64_t start = range * kRangeKeys;
    const auto inside = [&](int64_t position) {
      return static_cast<int>(std::clamp<int64_t>(position - start, 0, kRangeKeys));
    };
    int low[kTileRows], high[kTileRows];
    for (int64_t t = 0; t < tile.tokens; ++t) {
      const int64_t position = tile.position + t;
      std::fill_n(low + t * group_, group_, inside(low_of(position)));
      std::fill_n(high + t * group_, group_, inside(position + 1));
    }
    const int begin = inside(low_of(tile.position)), end = inside(tile.position + tile.tokens);
    int64_t offsets[kRangeKeys];
    find_keys(tile.sequence, head, start, begin, end, offsets);
    const KeyRange keys = {static_cast<const char *>(cache_.keys),
                           static_cast<const char *>(cache_.values),
                           offsets,
                           begin,
                           end,
                           cache_.is_bf16 != 0};
    kernels_.attend(space.rows, rows_of(tile), dim(), low, high, keys, space.scratch, into);
  }

  void find_keys(int64_t sequence, int64_t head, int64_t start, int begin, int end,
                 int64_t *offsets) const {
    const int64_t item = cache_.is_bf16 ? 2 : 4, size = cache_.page_size;
    const int64_t key_bytes = heads_.kv_heads * dim_ * item;
    const int32_t *table = pages_.page_table + sequence * pages_.table_width;
    int64_t at = start + begin - pages_.first_positions[sequence];
    int64_t page = at / size, inside = at % size;
    for (int j = begin; j < end; ++j) {
      offsets[j] = (table[page] * size + inside) * key_bytes + head * dim_ * item;
      if (++inside == size) {
        inside = 0;
        ++page;
      }
    }
  }

  void finish(const Tile &tile, int64_t head, const Partial &state) const {
    const int group = static_cast<int>(group_);
    for (int64_t t = 0; t < tile.tokens; ++t) {
      const Partial token = {state.largest + t * group_, state.sum + t * group_,
                             state.out + t * group_ * dim_};
      float *out = out_ + ((tile.token + t) * heads_.heads + head * group_) * dim_;
      kernels_.finish(group, dim(), token, sinks_ + head * group_, out);
    }
  }

  ossia_context *context_;
  const BlockKernels &kernels_;
  const float *q_;
  const int64_t stride_;
  const ossia_heads &heads_;
  const ossia_pages &pages_;
  const ossia_cache &cache_;
  const float *sinks_;
  float *out_;
  const int64_t group_, dim_;
  std::vector<Tile> tiles_;
  int64_t ranges_ = 0;
  int64_t thread_floats_ = 0;
  float *rooms_ = nullptr, *partials_ = nullptr;
};

}  // namespace
}  // namespace ossia

int ossia_attend(ossia_context *context, const float *q, int64_t stride, const ossia_heads *heads,
                 const ossia_pages *pages, const ossia_cache *cache, const float *sinks,
                 float *out) {
  if (heads->kv_heads < 1 || heads->heads % heads->kv_heads != 0 ||
      heads->heads / heads->kv_heads > ossia::kTileRows || heads->head_dim < 16 ||
      heads->head_dim % 16 != 0 || cache->page_size < 1) {
    return OSSIA_BAD_ARGUMENT;
  }
  const std::lock_guard<std::mutex> lock(context->busy);
  try {
    return ossia::Attention(context, q, stride, *heads, *pages, *cache, sinks, out).run();
  } catch (const std::bad_alloc &) {
    return OSSIA_NO_MEMORY;
  }
}
