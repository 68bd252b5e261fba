// Weights on their way from the fragment layout to bf16 registers, and wgmma, for cuda_prefill.cu,
// which explains shapes and macros. No kernel of its own.

// ---------------------------------------------------------------- weights

struct Raw {  // a lane's packed weights of one chunk and the four scales of its two rows
    uint4 words;
    u32 scales;
};

// Not .nc: such loads the compiler moves together to the end of the main loop, one chunk before
// they are needed instead of DEPTH.
__device__ __forceinline__ Raw load_raw(const uint4* blocks, const u32* scales) {
    Raw raw;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(raw.words.x), "=r"(raw.words.y), "=r"(raw.words.z), "=r"(raw.words.w)
                 : "l"(blocks)
                 : "memory");
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(raw.scales) : "l"(scales) : "memory");
    return raw;
}

__device__ __forceinline__ u32 times(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}

// Byte `kByte` of `codes`, an E8M0 scale of at most 128, as 2^(code - 1) twice in bf16.
template <int kByte>
__device__ __forceinline__ u32 multiplier(u32 codes) {
    u32 twice;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(twice) : "r"(codes), "n"(0x4040 + 0x101 * kByte));
    return twice * 128u + 0x3F003F00u;
}

// One word of a lane -> its four A registers of one wgmma step.
__device__ __forceinline__ void unpack_word(u32 w, u32 scale_low, u32 scale_high, u32* a) {
    constexpr u32 kValue = 0x81C081C0u;  // sign, two exponent bits, one mantissa bit
    a[0] = times(w & kValue, scale_low);
    a[1] = times((w << 3) & kValue, scale_high);
    a[2] = times((w << 6) & kValue, scale_low);
    u32 last = ((w << 1) & 0x80008000u) | ((w >> 5) & 0x01000100u) | ((w >> 4) & 0x00C000C0u);
    a[3] = times(last, scale_high);
}

__device__ __forceinline__ void unpack(Raw& raw, u32 (&a)[16]) {
    // The empty statements hold the arithmetic between them: after the wait that frees the
    // registers of `a`, before the fence of the products that read them.
    asm volatile("" : "+r"(raw.words.x), "+r"(raw.words.y), "+r"(raw.words.z), "+r"(raw.words.w));
    u32 low0 = multiplier<0>(raw.scales), high0 = multiplier<1>(raw.scales);
    u32 low1 = multiplier<2>(raw.scales), high1 = multiplier<3>(raw.scales);
    unpack_word(raw.words.x, low0, high0, a);
    unpack_word(raw.words.y, low0, high0, a + 4);
    unpack_word(raw.words.z, low1, high1, a + 8);
    unpack_word(raw.words.w, low1, high1, a + 12);
#pragma unroll
    for (int i = 0; i < 16; i++) asm volatile("" : "+r"(a[i]));
}

// Where one warp's weights are: 16 rows, chunk after chunk.
struct Stream {
    const uint4* blocks;
    const u32* scales;
    Raw raw[DEPTH];

    // Point at the 16-row tile number `row_tile` of all experts and load the first chunks.
    template <int kChunks>
    __device__ __forceinline__ void open(const uint4* all_blocks, const u32* all_scales,
                                         long long row_tile, int lane) {
        blocks = all_blocks + row_tile * (kChunks * 32) + lane;
        scales = all_scales + row_tile * (kChunks * 8) + (lane >> 2);
#pragma unroll
        for (int i = 0; i < DEPTH && i < kChunks; i++) {
            raw[i] = load_raw(blocks + i * 32, scales + i * 8);
        }
        // The rest of the first 4 KB, and all scales, on their way to the L2.
        prefetch((const char*)(blocks - lane) + lane * 128);
        if (lane * 128 < kChunks * 32) prefetch((const char*)(scales - (lane >> 2)) + lane * 128);
    }
    // Unpack chunk `chunk` to `a`, and load the one that takes its place.
    template <int kChunks>
    __device__ __forceinline__ void next(int chunk, int place, u32 (&a)[16]) {
        unpack(raw[place], a);
        int c = chunk + DEPTH;
        if (c < kChunks) raw[place] = load_raw(blocks + c * 32, scales + c * 8);
    }
    // Bring the eight chunks from `chunk` on into the L2, a line a lane.
    template <int kChunks>
    __device__ __forceinline__ void ahead(int chunk, int lane) const {
        int line = chunk * 4 + lane;
        if (line < kChunks * 4) prefetch((const char*)(blocks - lane) + line * 128);
    }
    static __device__ __forceinline__ void prefetch(const char* address) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
    }
};

// ---------------------------------------------------------------- wgmma, weights in registers

#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define R48 R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define R64 R48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define R80 R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define R96 R80 ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define R112 R96 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define R128 R112 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D16(i) D4(i), D4(i + 4), D4(i + 8), D4(i + 12)
#define D32 D16(0), D16(16)
#define D64 D32, D16(32), D16(48)
#define D48 D32, D16(32)
#define D96 D64, D16(64), D16(80)
#define D128 D96, D16(96), D16(112)

// d[64 weight rows, kN token rows] += a[64, 16] b[16, kN].
template <int kN>
struct Product;

#define DEFINE_PRODUCT(N, REGISTERS, OPERANDS, A0, A1, A2, A3, B)                                 \
    template <>                                                                                   \
    struct Product<N> {                                                                           \
        static __device__ __forceinline__ void run(float (&d)[N / 2], const u32* a, u64 b) {      \
            asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS   \
                         "}, {" A0 "," A1 "," A2 "," A3 "}, " B ", 1, 1, 1, 0;"                   \
                         : OPERANDS                                                               \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                     \
                         : "memory");                                                             \
        }                                                                                         \
    };
DEFINE_PRODUCT(32, R16, D16(0), "%16", "%17", "%18", "%19", "%20")
DEFINE_PRODUCT(64, R32, D32, "%32", "%33", "%34", "%35", "%36")
DEFINE_PRODUCT(96, R48, D48, "%48", "%49", "%50", "%51", "%52")
DEFINE_PRODUCT(128, R64, D64, "%64", "%65", "%66", "%67", "%68")
DEFINE_PRODUCT(256, R128, D128, "%128", "%129", "%130", "%131", "%132")

__device__ __forceinline__ void products_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void products_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// wgmma's description of a slot: rows of 128 bytes, swizzled, eight of them 1,024 bytes.
__device__ __forceinline__ u64 describe(u32 address) {
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}
